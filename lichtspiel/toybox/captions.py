"""Describes a scene in words: English, German and Chinese, each in several wordings.

Every wording names subject, size, action, direction, place, time, weather and camera, so that the scene can be
recovered from the caption: no two scenes share one. Only defaults go unmentioned (medium size, a still camera, a
clear sky and, except in wording 0, daytime). Indoors and under water there is no time of day or weather to mention.
Does not know which scenes make sense; `sample` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from lichtspiel.toybox.catalog import SUBJECTS, Gender, Subject
from lichtspiel.toybox.scene import INDOORS, Action, Actor, Camera, Direction, Place, Scene, Size, Time, Weather

__all__ = ["LANGUAGES", "WORDINGS", "Language", "caption"]

Language = Literal["en", "de", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "de", "zh")
WORDINGS = 4
"""Wordings per language: 0 plain and without a full stop, 1 opens with the time, 2 with the place, 3 is a list."""

_FLOATING_BIRDS = frozenset({"duck", "swan"})


def caption(scene: Scene, language: Language, wording: int) -> str:
    """The caption of `scene`; `wording` runs from 0 to `WORDINGS` - 1."""
    assert 0 <= wording < WORDINGS, wording
    return _WRITERS[language](scene, wording)


def _flying(scene: Scene) -> bool:
    return all(actor.action == "fly" for actor in scene.actors)


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _parts(*parts: str) -> list[str]:
    return [part for part in parts if part]


# English

_EN_SIZES: dict[Size, tuple[str, str, str, str]] = {
    "small": ("small ", "little ", "tiny ", "small "),
    "medium": ("", "", "", ""),
    "big": ("big ", "large ", "huge ", "large "),
}
_EN_ACTIONS: dict[Action, tuple[str, str, str, str]] = {
    "walk": ("walks", "strolls", "is walking", "walking"),
    "hop": ("hops", "hops along", "is hopping", "hopping"),
    "stand": ("stands still", "stays where it is", "is standing still", "standing still"),
    "drive": ("drives", "rolls", "is driving", "driving"),
    "fly": ("flies", "soars", "is flying", "flying"),
    "swim": ("swims", "swims along", "is swimming", "swimming"),
    "sail": ("sails", "sails along", "is sailing", "sailing"),
    "bounce": ("bounces up and down", "bounces like a ball", "is bouncing up and down", "bouncing up and down"),
    "spin": ("spins around", "turns round and round", "is spinning around", "spinning around"),
    "fall": ("falls down", "drops down", "is falling down", "falling down"),
    "grow": ("grows bigger", "gets bigger and bigger", "is growing bigger", "growing bigger"),
    "shrink": ("shrinks", "gets smaller and smaller", "is shrinking", "shrinking"),
}
_EN_GLIDE = ("glides", "glides along", "is gliding", "gliding")
_EN_WAYS: dict[Direction, tuple[str, str, str, str]] = {
    "left": (" to the left", " from right to left", " to the left", " towards the left"),
    "right": (" to the right", " from left to right", " to the right", " towards the right"),
    "none": ("", "", "", ""),
}
# The phrase on the ground, and the noun, used for the air above it and for the list.
_EN_PLACES: dict[Place, tuple[str, str]] = {
    "meadow": ("in a green meadow", "a green meadow"),
    "desert": ("in a sandy desert", "a sandy desert"),
    "snowfield": ("in a snowy field", "a snowy field"),
    "beach": ("on a beach", "a beach"),
    "road": ("on a road", "a road"),
    "path": ("on a dirt path", "a dirt path"),
    "autumn": ("in an autumn field", "an autumn field"),
    "city": ("in a city", "a city"),
    "sea": ("on the sea", "the sea"),
    "underwater": ("under water", "under water"),
    "room": ("in a room", "a room"),
}
_EN_TIMES: dict[Time, tuple[str, str]] = {
    "day": ("on a sunny day", ""),
    "sunset": ("at sunset", "at sunset"),
    "night": ("at night", "in the night"),
    "overcast": ("on a cloudy day", "under a grey sky"),
}
_EN_WEATHERS: dict[Weather, tuple[str, str, str, str]] = {
    "clear": ("", "", "", ""),
    "rain": (", it is raining", " in the rain", " while it rains", "rain"),
    "snowfall": (", snow is falling", " in falling snow", " while it snows", "falling snow"),
}
_EN_CAMERAS: dict[Camera, tuple[str, str]] = {
    "still": ("", ""),
    "zoom-in": ("the camera zooms in", "the camera moves closer"),
    "zoom-out": ("the camera zooms out", "the camera moves away"),
    "pan-left": ("the camera pans to the left", "the camera swings left"),
    "pan-right": ("the camera pans to the right", "the camera swings right"),
}


def _en_actor(actor: Actor, wording: int) -> str:
    subject = SUBJECTS[actor.subject]
    name = _EN_SIZES[actor.size][wording] + subject.english
    article = "an" if name[0].lower() in "aeiou" else "a"
    glides = actor.action == "sail" and subject.key in _FLOATING_BIRDS
    action = (_EN_GLIDE if glides else _EN_ACTIONS[actor.action])[wording]
    return f"{article} {name} {action}{_EN_WAYS[actor.direction][wording]}"


def _english(scene: Scene, wording: int) -> str:
    who = " and ".join(_en_actor(actor, wording) for actor in scene.actors)
    ground, noun = _EN_PLACES[scene.place]
    where = f"over {noun}" if _flying(scene) and scene.place not in INDOORS else ground
    plain, other = ("", "") if scene.place in INDOORS else _EN_TIMES[scene.time]
    weather = _EN_WEATHERS[scene.weather][wording]
    zoom, move = _EN_CAMERAS[scene.camera]
    if wording == 0:
        # "a sunny day, it is raining" would be a contradiction.
        when = "by day" if scene.time == "day" and weather else plain
        return ", ".join(_parts(" ".join(_parts(who, where, when)) + weather, zoom))
    if wording == 1:
        sentence = ", ".join(_parts(other, f"{who} {where}{weather}"))
        return " ".join(f"{_capital(part)}." for part in _parts(sentence, move))
    if wording == 2:
        place = " ".join(_parts(where, other and plain))
        return _capital("; ".join(_parts(f"{place}, {who}{weather}", zoom))) + "."
    return "A clip: " + ", ".join(_parts(who, noun if where == ground else where, other and plain, weather, move)) + "."


# German

_DE_ADJECTIVES: dict[Size, tuple[str, str, str, str]] = {
    "small": ("klein", "winzig", "klein", "klein"),
    "medium": ("", "", "", ""),
    "big": ("groß", "riesig", "groß", "groß"),
}
_DE_ENDINGS: dict[Gender, tuple[str, str]] = {"m": ("ein", "er"), "f": ("eine", "e"), "n": ("ein", "es")}
# The finite verb and the end of the sentence, in two versions; with moving subjects the direction ends it.
_DE_ACTIONS: dict[Action, tuple[tuple[str, str], tuple[str, str]]] = {
    "walk": (("geht", ""), ("spaziert", "")),
    "hop": (("hüpft", ""), ("springt", "")),
    "stand": (("steht", "still"), ("steht", "reglos da")),
    "drive": (("fährt", ""), ("rollt", "")),
    "fly": (("fliegt", ""), ("schwebt", "")),
    "swim": (("schwimmt", ""), ("taucht", "")),
    "sail": (("fährt", ""), ("schippert", "")),
    "bounce": (("springt", "auf und ab"), ("federt", "auf und ab")),
    "spin": (("dreht sich", "im Kreis"), ("dreht sich", "um sich selbst")),
    "fall": (("fällt", "herunter"), ("stürzt", "herab")),
    "grow": (("wird", "größer"), ("wächst", "immer weiter")),
    "shrink": (("wird", "kleiner"), ("schrumpft", "immer weiter")),
}
_DE_GLIDE = (("gleitet", ""), ("treibt", ""))
_DE_WAYS: dict[Direction, tuple[str, str]] = {
    "left": ("nach links", "von rechts nach links"),
    "right": ("nach rechts", "von links nach rechts"),
    "none": ("", ""),
}
# The phrase on the ground, the phrase in the air above it, and the noun for the list.
_DE_PLACES: dict[Place, tuple[str, str, str]] = {
    "meadow": ("auf einer grünen Wiese", "über einer grünen Wiese", "grüne Wiese"),
    "desert": ("in einer Sandwüste", "über einer Sandwüste", "Sandwüste"),
    "snowfield": ("auf einem verschneiten Feld", "über einem verschneiten Feld", "verschneites Feld"),
    "beach": ("an einem Strand", "über einem Strand", "Strand"),
    "road": ("auf einer Straße", "über einer Straße", "Straße"),
    "path": ("auf einem Feldweg", "über einem Feldweg", "Feldweg"),
    "autumn": ("auf einem herbstlichen Feld", "über einem herbstlichen Feld", "herbstliches Feld"),
    "city": ("in einer Stadt", "über einer Stadt", "Stadt"),
    "sea": ("auf dem Meer", "über dem Meer", "auf dem Meer"),
    "underwater": ("unter Wasser", "unter Wasser", "unter Wasser"),
    "room": ("in einem Zimmer", "in einem Zimmer", "Zimmer"),
}
_DE_TIMES: dict[Time, tuple[str, str, str]] = {
    "day": ("an einem sonnigen Tag", "", ""),
    "sunset": ("bei Sonnenuntergang", "bei Sonnenuntergang", "Sonnenuntergang"),
    "night": ("nachts", "in der Nacht", "Nacht"),
    "overcast": ("an einem bewölkten Tag", "unter grauem Himmel", "bewölkter Himmel"),
}
_DE_WEATHERS: dict[Weather, tuple[str, str, str]] = {
    "clear": ("", "", ""),
    "rain": ("es regnet", "während es regnet", "Regen"),
    "snowfall": ("es schneit", "während es schneit", "Schneefall"),
}
_DE_CAMERAS: dict[Camera, tuple[str, str]] = {
    "still": ("", ""),
    "zoom-in": ("die Kamera zoomt heran", "die Kamera kommt näher"),
    "zoom-out": ("die Kamera zoomt heraus", "die Kamera entfernt sich"),
    "pan-left": ("die Kamera schwenkt nach links", "Kameraschwenk nach links"),
    "pan-right": ("die Kamera schwenkt nach rechts", "Kameraschwenk nach rechts"),
}


def _de_name(subject: Subject, size: Size, wording: int) -> str:
    article, ending = _DE_ENDINGS[subject.gender]
    adjective = _DE_ADJECTIVES[size][wording]
    return " ".join(_parts(article, adjective and adjective + ending, subject.german))


def _de_actor(actor: Actor, wording: int) -> tuple[str, str, str]:
    """The name, the finite verb and the end of the sentence."""
    subject = SUBJECTS[actor.subject]
    glides = actor.action == "sail" and subject.key in _FLOATING_BIRDS
    verb, end = (_DE_GLIDE if glides else _DE_ACTIONS[actor.action])[wording == 1]
    return _de_name(subject, actor.size, wording), verb, _DE_WAYS[actor.direction][wording == 1] or end


def _german(scene: Scene, wording: int) -> str:
    first, *further_actors = (_de_actor(actor, wording) for actor in scene.actors)
    name, verb, end = first
    rest = "".join(f" und {n} {v} {e}" for n, v, e in further_actors)
    ground, air, noun = _DE_PLACES[scene.place]
    where = air if _flying(scene) else ground
    plain, other, tag = ("", "", "") if scene.place in INDOORS else _DE_TIMES[scene.time]
    weather, clause, falling = _DE_WEATHERS[scene.weather]
    zoom, move = _DE_CAMERAS[scene.camera]
    # German keeps the verb second, so the subject follows it when a time or place opens the sentence.
    if wording == 0:
        when = "am Tag" if scene.time == "day" and weather else plain
        return ", ".join(_parts(" ".join(_parts(name, verb, when, where, end)) + rest, weather, zoom))
    if wording == 1:
        opening, middle = (other, where) if other else (where, "")
        sentence = " ".join(_parts(opening, verb, middle, name, end)) + rest
        return " ".join(f"{_capital(part)}." for part in _parts(sentence, weather, move))
    if wording == 2:
        sentence = " ".join(_parts(where, verb, other and plain, name, end)) + rest
        return _capital("; ".join(_parts(", ".join(_parts(sentence, clause)), zoom))) + "."
    spot = noun if where == ground else where
    return "Kurzfilm: " + ", ".join(_parts(f"{name} {verb} {end}{rest}", spot, tag, falling, move)) + "."


# Chinese

_ZH_SIZES: dict[Size, tuple[str, str, str]] = {
    "small": ("小", "小小的", "很小的"),
    "medium": ("", "", ""),
    "big": ("大", "巨大的", "很大的"),
}
_ZH_PARTED = ("大", "小", "红", "蓝", "绿", "黄", "白", "带", "龙虾", "天鹅")
"""Beginnings of nouns that would read as another word right after 大 or 小 (小龙虾 is a crayfish)."""
_ZH_ACTIONS: dict[Action, tuple[str, str]] = {
    "walk": ("走", "漫步"),
    "hop": ("跳", "蹦跳"),
    "stand": ("一动不动", "静止不动"),
    "drive": ("行驶", "开"),
    "fly": ("飞", "飞行"),
    "swim": ("游", "游动"),
    "sail": ("航行", "行进"),
    "bounce": ("上下弹跳", "不停地弹跳"),
    "spin": ("原地旋转", "不停地转圈"),
    "fall": ("掉落下来", "坠落下来"),
    "grow": ("渐渐变大", "变得越来越大"),
    "shrink": ("渐渐变小", "变得越来越小"),
}
_ZH_GLIDE = ("漂游", "漂动")
_ZH_WAYS: dict[Direction, tuple[str, str]] = {
    "left": ("向左", "从右向左"),
    "right": ("向右", "从左向右"),
    "none": ("", ""),
}
# The noun, the phrase on the ground, and the phrase in the air.
_ZH_PLACES: dict[Place, tuple[str, str, str]] = {
    "meadow": ("绿草地", "上", "上空"),
    "desert": ("沙漠", "里", "上空"),
    "snowfield": ("雪地", "里", "上空"),
    "beach": ("沙滩", "上", "上空"),
    "road": ("公路", "上", "上空"),
    "path": ("土路", "上", "上空"),
    "autumn": ("金秋田野", "里", "上空"),
    "city": ("城市", "里", "上空"),
    "sea": ("大海", "上", "上空"),
    "underwater": ("水", "下", "下"),
    "room": ("房间", "里", "里"),
}
# The form before a place, before a sentence, and in the list.
_ZH_TIMES: dict[Time, tuple[str, str, str]] = {
    "day": ("阳光明媚的", "", ""),
    "sunset": ("日落时分的", "日落时分", "日落"),
    "night": ("夜晚的", "夜里", "夜晚"),
    "overcast": ("阴天的", "天色阴沉", "阴天"),
}
_ZH_WEATHERS: dict[Weather, tuple[str, str, str]] = {
    "clear": ("", "", ""),
    "rain": ("下着雨", "天正下着雨", "下雨"),
    "snowfall": ("下着雪", "天正下着雪", "下雪"),
}
_ZH_CAMERAS: dict[Camera, tuple[str, str]] = {
    "still": ("", ""),
    "zoom-in": ("镜头推近", "镜头慢慢靠近"),
    "zoom-out": ("镜头拉远", "镜头慢慢远离"),
    "pan-left": ("镜头向左摇", "镜头慢慢摇向左边"),
    "pan-right": ("镜头向右摇", "镜头慢慢摇向右边"),
}


def _zh_actor(actor: Actor, wording: int) -> tuple[str, str]:
    """The subject with its measure word, and what it does."""
    subject = SUBJECTS[actor.subject]
    plain, other, parted = _ZH_SIZES[actor.size]
    size = other if wording == 1 else parted if subject.chinese.startswith(_ZH_PARTED) else plain
    glides = actor.action == "sail" and subject.key in _FLOATING_BIRDS
    action = _ZH_GLIDE if glides else _ZH_ACTIONS[actor.action]
    return f"一{subject.measure}{size}{subject.chinese}", _ZH_WAYS[actor.direction][wording == 1] + action[wording == 1]


def _chinese(scene: Scene, wording: int) -> str:
    first, *further_actors = (_zh_actor(actor, wording) for actor in scene.actors)
    name, act = first
    rest = "".join(f"，{n}{a}" for n, a in further_actors)
    noun, ground, air = _ZH_PLACES[scene.place]
    spot = noun + (air if _flying(scene) else ground)
    plain, other, tag = ("", "", "") if scene.place in INDOORS else _ZH_TIMES[scene.time]
    weather, sentence, falling = _ZH_WEATHERS[scene.weather]
    zoom, move = _ZH_CAMERAS[scene.camera]
    if wording == 0:
        when = "白天的" if scene.time == "day" and weather else plain
        return "，".join(_parts(f"{name}在{when}{spot}{act}{rest}", weather, zoom))
    if wording == 1:
        opening = "，".join(_parts(other, f"{name}在{spot}{act}{rest}"))
        return "".join(f"{part}。" for part in _parts(opening, sentence, move))
    if wording == 2:
        when = plain if other else ""
        return "；".join(_parts("，".join(_parts(f"在{when}{spot}", f"{name}{act}{rest}", weather)), zoom)) + "。"
    where = spot if _flying(scene) or scene.place in INDOORS else noun
    return "短片：" + "，".join(_parts(f"{name}{act}{rest}", where, tag, falling, move)) + "。"


_WRITERS: dict[Language, Callable[[Scene, int], str]] = {"en": _english, "de": _german, "zh": _chinese}
