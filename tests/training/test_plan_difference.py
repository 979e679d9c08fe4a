from training.plan_difference import Change, differences, told


def test_every_field_that_differs_is_named_once_with_both_values() -> None:
    before = {"schedule": {"eta_max": 0.0003, "kind": "wsd"}, "seed": 1, "gone": 2}
    now = {"schedule": {"eta_max": 0.0001, "kind": "wsd"}, "seed": 1, "come": 3}
    assert differences(before, now) == [
        Change("come", None, 3),
        Change("gone", 2, None),
        Change("schedule.eta_max", 0.0003, 0.0001),
    ]
    assert differences(before, before) == []


def test_a_list_is_one_field_however_many_entries_moved() -> None:
    streams = [{"name": f"s{number}", "parts": 1} for number in range(400)]
    moved = [{**stream, "parts": 2} for stream in streams]
    found = differences({"streams": streams}, {"streams": moved}, "mixture")
    assert [change.path for change in found] == ["mixture.streams"]
    sentence = told(found)
    assert sentence.startswith("mixture.streams was 400 entries (")
    assert len(sentence) < 100


def test_a_sentence_names_the_first_fields_and_counts_the_others() -> None:
    changes = [Change(f"f{number}", 1000 * number, None) for number in range(9)]
    sentence = told(changes, "{path}: {before} to {now}")
    assert sentence.startswith("f0: 0 to not set, f1: 1,000 to not set, ")
    assert sentence.endswith("f5: 5,000 to not set and 3 more")
