"""Short names of models, by which tables call them."""

from universal_ray.planning.names import short_names


def test_a_name_is_the_last_part_with_its_revision():
    given = ["/data/seeds/a", "runs/b/", "EleutherAI/pythia-160m", "EleutherAI/pythia-160m@step1"]
    assert list(short_names(given).values()) == ["a", "b", "pythia-160m", "pythia-160m@step1"]


def test_names_that_clash_have_as_many_parts_as_tell_them_apart_and_others_stay_short():
    given = ["x/one/a", "y/one/a", "z/two/a", "z/two/b"]
    assert list(short_names(given).values()) == ["x/one/a", "y/one/a", "two/a", "b"]


def test_no_two_models_share_a_name_whatever_they_are_called():
    for given in (["a", "/a", "x/a"], ["a", "a/"], ["/", "//"], ["a/b", "b", "/a/b", "./b"]):
        short = short_names(given)
        assert list(short) == given
        assert len({*short.values()}) == len(given) and all(short.values()), short


def test_the_same_name_twice_is_one_model():
    assert short_names(["x/a", "x/a"]) == {"x/a": "a"}
