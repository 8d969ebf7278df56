"""Given footage: masks that follow an object, crops that go back where they came from, and controls made of a clip."""
