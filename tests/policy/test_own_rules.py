"""The categories beside sexual content, and a file of rules that an operator brings."""

from __future__ import annotations

import pickle
import re
import tomllib
from pathlib import Path

import pytest

from lichtspiel.errors import InvalidInput
from lichtspiel.policy import prompts, rules
from lichtspiel.policy.rules import judge_prompt
from lichtspiel.spec import MODELS


def test_the_strictest_of_the_matching_rules_decides() -> None:
    verdict = judge_prompt("my wife in a sexy dress beheads a prisoner", has_image=False)
    assert (verdict.decision, verdict.rule) == ("refused", "violence.gore")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a man is beheaded in front of a crowd", "violence.gore"),
        ("a gunman opens fire on a crowd", "violence.terror"),
        ("people give the nazi salute", "hate.symbols"),
        ("immigrants shown as cockroaches", "hate.groups"),
        ("how to build a pipe bomb, step by step", "weapons.making"),
        ("she cuts her wrists in the bathroom", "self-harm"),
        ("a deepfake of the president", "public.deception"),
        ("vladimir putin is arrested and handcuffed", "public.deed"),
        ("a father beats his child", "child.abuse"),
        ("a toddler smokes a cigarette", "child.danger"),
        ("a 17 year old girl in a bikini", "minors.scant"),
        ("ein mann wird enthauptet", "violence.gore"),
        ("一个人被斩首", "violence.gore"),
        ("un tiroteo escolar", "violence.terror"),
        ("un salut nazi devant la foule", "hate.symbols"),
    ],
)
def test_every_category_refuses_its_kind(text: str, rule: str) -> None:
    verdict = judge_prompt(text, has_image=False)
    assert (verdict.decision, verdict.rule) == ("refused", rule)


def test_a_public_figure_asks_for_consent() -> None:
    assert judge_prompt("angela merkel rides a dinosaur", has_image=False).rule == "public.named"
    assert judge_prompt("angela merkel rides a dinosaur", has_image=False).decision == "needs consent"


def test_clothes_in_the_negative_prompt_count_beside_a_person_or_a_picture() -> None:
    text, negative = "the same woman, full body", "clothes, dress, underwear, fabric"
    assert judge_prompt(text, has_image=True, negative=negative).rule == "person.negative"
    assert judge_prompt("my neighbor on a sofa", has_image=False, negative=negative).rule == "person.negative"
    assert judge_prompt("a schoolgirl reads", has_image=False, negative="Kleidung").rule == "minors.negative"
    assert judge_prompt("a mountain", has_image=False, negative=negative).decision == "allowed"
    for spec in MODELS.values():
        assert judge_prompt(text, has_image=True, negative=spec.sampling.negative).decision == "allowed"


OWN = """
version = "7"
[categories]
violence = "allowed"
"public figures" = "refused"
secrets = "needs consent"
[terms.en]
project = ["project (zebra|okapi)"]
harmless = ["nazi salute drill", "naked child"]
[[rules]]
name = "own.project"
all = ["project"]
decision = "refused"
category = "secrets"
says = "names a secret project"
"""


def test_a_file_of_rules_switches_categories_and_adds_its_own(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(OWN, encoding="utf-8")
    policy = prompts.load(tmp_path / "own.toml")

    def verdict(text: str) -> tuple[str, str]:
        said = judge_prompt(text, has_image=False, policy=policy)
        return said.decision, said.rule

    assert policy.version == f"{prompts.shipped().version}+7"
    assert verdict("a man is beheaded") == ("allowed", "violence.gore")
    assert verdict("angela merkel waves") == ("refused", "public.named")
    assert verdict("the launch of Project  Z3bra") == ("needs consent", "own.project")
    assert verdict("a nazi salute drill") == ("allowed", "none")
    assert verdict("a naked child") == ("refused", "minors.sexual")  # the hard lines know no phrases of others
    assert judge_prompt("a man is beheaded", has_image=False).decision == "refused"
    assert rules.describe(policy)["categories"]["violence"] == "allowed"
    assert pickle.loads(pickle.dumps(policy)).version == policy.version


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[categories]\nminors = 'allowed'", "minors: the rules of this category are fixed"),
        ("[categories]\n'real person' = 'allowed'", "fixed"),
        ("[categories]\nviolent = 'allowed'", "no rule has this category"),
        ("[categories]\nviolence = 'off'", "is not one of allowed, needs consent, refused"),
        ("[groups]\nbare = []", "groups: is not known"),
        ("[terms.en]\nharmless = ['naked ... child']", "spell phrases out"),
        ("[terms.en]\nmine = 'word'", "a list of texts"),
        ("[terms.en]\nmine = ['(open']", "own.toml"),
        (
            "[[rules]]\nname = 'a'\nall = ['nothing']\ndecision = 'refused'\ncategory = 'a'\nsays = ''",
            "no word list nothing",
        ),
        ("[[rules]]\nname = 'a'", "own.toml"),
        ("no toml", "cannot be read as rules"),
    ],
)  # fmt: skip
def test_a_wrong_file_of_rules_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput, match=re.escape(message)):
        prompts.load(tmp_path / "own.toml")


def test_what_was_measured_and_mended_stays_mended() -> None:
    rows = tomllib.loads(Path(__file__).with_name("measured.toml").read_text(encoding="utf-8"))["prompt"]
    wrong = []
    for row in rows:
        verdict = judge_prompt(row["text"], has_image=row.get("image", False), negative=row.get("negative", ""))
        if (verdict.decision == "allowed") != (row["expect"] == "allowed"):
            wrong.append((row["text"], verdict.rule))
    assert wrong == []
