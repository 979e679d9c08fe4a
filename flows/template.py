"""The commented YAML that ``perennial init`` writes, with a model of two sizes to choose from."""

_MODEL = """\
  model:
    vocab_size: 32768
    hidden_size: 768
    num_layers: 12
    num_heads: 12
    num_kv_heads: 4
    intermediate_size: 2048
"""
_RECIPE = """\
  seq_len: 1024
  global_batch_samples: 256
  micro_batch_size: 8
  # schedule: {eta_max: 3.0e-4}
"""
_BUDGET = """\
  epochs: 1                    # passes over the new data
"""

# The demo's too, whose updates take minutes on two cores (docs/results/demo.md).
SMALL_MODEL = """\
  model:
    vocab_size: 4096
    hidden_size: 192
    num_layers: 4
    num_heads: 6
    num_kv_heads: 2
    intermediate_size: 512
    max_position_embeddings: 256
"""
_SMALL_MODEL = f"""\
  # (2.4 M parameters, to see everything work on a laptop; 'perennial init' has a larger one)
{SMALL_MODEL}"""
_SMALL_RECIPE = """\
  seq_len: 256
  global_batch_samples: 32
  micro_batch_size: 32
  schedule: {eta_max: 2.0e-3, warmup_fraction: 0.05}   # a small model bears a high rate
"""
_SMALL_BUDGET = """\
  first_tokens: 1000000        # a minute or two; raise both, or set epochs, for a better model
  tokens: 500000
  checkpoint_every_tokens: 250000
"""
_SMALL_HOLDOUT = """\
holdout:                       # of little data a larger share, so that small losses can be seen
  fraction: 0.08
  min_clusters: 24
  max_fraction: 0.5
  max_tokens: 100000

"""

TEMPLATE = """\
# A lineage: one model kept up to date. Every key with its meaning: docs/configuration.md
# Check it with: perennial plan {file}
name: {name}

base:
  # Start from nothing: this architecture, and a tokenizer trained on the first data ...
{model}\
  # ... or continue an existing model (then remove model above), a Hugging Face directory with
  # config.json, *.safetensors and tokenizer.json; reference is text like what it was trained on,
  # to guard what it knows; half of every update is replay of it (replay.reference_share):
  # directory: /models/my-base-model
  # reference:
  #   - name: reference
  #     uri: /data/reference/*.jsonl.gz
  #     domain: reference

sources:
  - name: example
    # JSONL or CSV (plain, .gz, .zst, .bz2), Parquet, Arrow, WARC, or a tree of text, code or HTML
    uri: /data/example/*.jsonl.gz
    # proportions and checks are per domain
    domain: web-en
    licence: CC-BY-4.0
    # cluster: the field with the work, site or repository that a document belongs to
    # fields: {{text: text, id: id, time: date, cluster: site}}

# curate:                      # rules of quality, with their published thresholds, by domain
#   domains:
#     web-en: {{language: {{allow: [en]}}, gopher: {{}}, c4: {{end_marks: false}}, pii: {{}}}}

refresh:                       # smaller amounts stay unread until there is more
  min_new_documents: 16        # of fewer nothing can be held out that could show a gain
  min_new_tokens: 0

near_duplicates: fineweb       # drop what repeats most of an earlier document; or your own values:
#   {{ngram: 5, bands: 14, rows: 8, threshold: 0.7}}

{holdout}\
recipe:
  name: rewarm-cosine          # or: infinite, wsd
{recipe}\

replay:
  share: 0.25                  # of an update's tokens; 0.05 is enough for a weak shift
  budget_tokens: 1000000000

budget:
{budget}\

check:
  max_loss_nats: 0.05          # largest tolerated loss on any old domain, nats per token
  min_gain_nats: 0.02          # smallest gain on the new data that is worth publishing

# tasks:                       # questions with right answers; also lm-evaluation-harness YAML
#   - {{name: quiz, uri: quiz.jsonl, kind: multiple_choice}}

# remedy: {{order: []}}          # to try nothing when a candidate has forgotten too much

review:
  always: false                # true: also what passed waits until a person approves it

compute:
  num_workers: 1               # Ray workers, or [fewest, most]; 0: in the flow's own process

schedule:
  # cron: 0 2 * * *            # every night at two, while 'perennial serve' runs
  timezone: UTC
  when_busy: wait              # a run that finds another one at work waits, or: skip
"""


def render_template(name: str, file: str, *, small: bool = False) -> str:
    """The template for a lineage called ``name``, to be saved as ``file``.

    Args:
        name: Of the lineage.
        file: Where the text will lie, for its own comments.
        small: With a model that trains in minutes without a GPU.
    """
    return TEMPLATE.format(
        name=name,
        file=file,
        model=_SMALL_MODEL if small else _MODEL,
        holdout=_SMALL_HOLDOUT if small else "",
        recipe=_SMALL_RECIPE if small else _RECIPE,
        budget=_SMALL_BUDGET if small else _BUDGET,
    )
