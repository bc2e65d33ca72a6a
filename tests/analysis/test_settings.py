from analysis.settings import RunSettings, settings_in_words


def run(digest, settings, model="a", kind="transfer", task="facts"):
    return RunSettings(task, digest, model, kind, settings)


def test_only_what_differs_is_named():
    first, second = {"epochs": 2, "learning_rate": 0.001, "lora": {"rank": 8}}, {"epochs": 2, "learning_rate": 0.01}
    words = settings_in_words([run("s0", first), run("s1", second | {"lora": {"rank": 4}})])
    assert words == {
        ("facts", "s0"): "learning_rate 0.001, lora.rank 8",
        ("facts", "s1"): "learning_rate 0.01, lora.rank 4",
    }


def test_one_settings_of_a_task_need_no_words():
    assert settings_in_words([run("s0", {"epochs": 2}), run("s1", {"epochs": 3}, task="other")]) == {}


def test_equal_models_are_compared_and_a_value_that_depends_on_the_model_has_its_name():
    rates = {"a": 0.001, "b": 0.0005}
    runs = [run(f"s{i}", {"learning_rate": r * (1 + i)}, model) for i in (0, 1) for model, r in rates.items()]
    assert settings_in_words(runs) == {
        ("facts", "s0"): "learning_rate 0.001 (a)",
        ("facts", "s1"): "learning_rate 0.002 (a)",
    }


def test_settings_without_a_model_in_common_are_not_compared():
    assert settings_in_words([run("s0", {"epochs": 2}, "a"), run("s1", {"epochs": 3}, "b")]) == {}


def test_of_many_differences_the_first_are_named():
    words = settings_in_words([run("s0", dict.fromkeys("abcdef", 0)), run("s1", dict.fromkeys("abcdef", 1))])
    assert words["facts", "s0"] == "a 0, b 0, c 0, d 0 and 2 more"
