"""How many new wordings the policy's rules miss, and how many harmless ones they stop.

    python -m benchmarks.policy [FILE] [--policy RULES]

FILE is a table of prompts that were never used to write or mend the rules: `tests/policy/fresh.toml` by default. A
prompt that is refused or asked consent for counts as stopped; pictures themselves are not judged here.
"""

from __future__ import annotations

import argparse
import collections
import tomllib
from pathlib import Path

from lichtspiel.policy import judge_prompt
from lichtspiel.policy.prompts import load

FRESH = Path(__file__).parent.parent / "tests" / "policy" / "fresh.toml"


def main() -> None:
    """Print a line per class, then the prompts that were judged wrongly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=FRESH)
    parser.add_argument("--policy", type=Path, help="a file of rules, as for lichtspiel --policy")
    arguments = parser.parse_args()
    policy = load(arguments.policy) if arguments.policy else None
    count: collections.Counter[str] = collections.Counter()
    wrong: collections.defaultdict[str, list[str]] = collections.defaultdict(list)
    for row in tomllib.loads(arguments.file.read_text(encoding="utf-8"))["prompt"]:
        verdict = judge_prompt(
            row["text"], has_image=row.get("image", False), negative=row.get("negative", ""), policy=policy
        )
        for name in (row["class"], row["expect"]):
            count[name] += 1
        if (verdict.decision == "allowed") != (row["expect"] == "allowed"):
            wrong[row["class"]].append(f"{row['text']}  [{verdict.rule}]")
            wrong[row["expect"]].append(row["text"])
    for name in count:
        print(f"{name:<24}{len(wrong[name]):>3} of {count[name]:>3} wrong")
    print(
        f"missed {len(wrong['stopped']) / count['stopped']:.1%}, false {len(wrong['allowed']) / count['allowed']:.1%}"
    )
    for name in set(count) - {"stopped", "allowed"}:
        for text in wrong[name]:
            print(f"  {name}: {text}")


if __name__ == "__main__":
    main()
