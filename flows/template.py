"""The commented YAML that ``perennial init`` writes."""

TEMPLATE = """\
# A lineage: one model kept up to date. Every key with its meaning: docs/configuration.md
# Check it with: perennial plan {file}
name: {name}

base:
  # Start from nothing: this architecture, and a tokenizer trained on the first data ...
  model:
    vocab_size: 32768
    hidden_size: 768
    num_layers: 12
    num_heads: 12
    num_kv_heads: 4
    intermediate_size: 2048
  # ... or continue an existing model (then remove model above), a Hugging Face directory with
  # config.json, *.safetensors and tokenizer.json; reference is text like what it was trained on,
  # to guard what it knows:
  # directory: /models/my-base-model
  # reference:
  #   - name: reference
  #     uri: /data/reference/*.jsonl.gz
  #     domain: reference

sources:
  - name: example
    # JSONL (plain, .gz, .zst), Parquet, or a tree of text or code files
    uri: /data/example/*.jsonl.gz
    # proportions and checks are per domain
    domain: web-en
    licence: CC-BY-4.0
    # cluster: the field with the work, site or repository that a document belongs to
    # fields: {{text: text, id: id, time: date, cluster: site}}

refresh:
  min_new_tokens: 0            # smaller amounts stay unread until there is more

recipe:
  name: rewarm-cosine          # or: infinite, wsd
  seq_len: 1024
  global_batch_samples: 256
  micro_batch_size: 8
  # schedule: {{eta_max: 3.0e-4}}

replay:
  share: 0.25                  # of an update's tokens; 0.05 is enough for a weak shift
  budget_tokens: 1000000000

budget:
  epochs: 1                    # passes over the new data

check:
  max_loss_nats: 0.05          # largest tolerated loss on any old domain, nats per token
  min_gain_nats: 0.02          # smallest gain on the new data that is worth publishing

compute:
  num_workers: 1               # Ray workers, or [fewest, most]; 0: in the flow's own process

schedule:
  # cron: 0 2 * * *            # every night at two, while 'perennial serve' runs
  timezone: UTC
  when_busy: wait              # a run that finds another one at work waits, or: skip
"""


def render_template(name: str, file: str) -> str:
    """The template for a lineage called ``name``, to be saved as ``file``."""
    return TEMPLATE.format(name=name, file=file)
