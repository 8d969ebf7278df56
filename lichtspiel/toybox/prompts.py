"""Scenes in the words of a person who types: short, leaving out most of what there is to say, in three languages.

`captions` says everything and always in the same few words. Whoever tries a model types "a dog", "a cat runs on the
beach" or "一只猫", so a text encoder has to see such prompts in training as well, with the facts that they name and
those that they leave open. The other names of subjects stand here, too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import cast

from lichtspiel.toybox.captions import Language
from lichtspiel.toybox.catalog import SUBJECTS, Gender
from lichtspiel.toybox.scene import INDOORS, Action, Direction, Scene, Size

__all__ = ["PLACES", "SKIES", "names", "prompt"]

_NAMES = """
cat | kitten, kitty | Kätzchen n, Kater m | 小猫, 猫咪
dog | puppy | Hündchen n | 小狗, 狗狗
horse | pony | Pony n | 小马
cow | | | 牛
pig | piglet | Ferkel n | 小猪
rabbit | bunny, hare | Hase m, Häschen n | 小兔子
elephant | | | 象
tiger | | | 虎
monkey | | | 猴
penguin | | | 小企鹅
bird | bird, little red bird | Vogel m | 鸟, 小鸟
turtle | tortoise | | 海龟
t-rex | dinosaur, T-rex | Dinosaurier m, T-Rex m | 恐龙
car | car | Auto n, roter Wagen m | 汽车, 红色汽车, 车
taxi | cab, yellow taxi, yellow car | gelbes Taxi n | 的士, 黄色出租车
bus | | | 巴士, 公交车
fire-engine | fire truck | Feuerwehr f | 救火车
police-car | police cruiser | Streifenwagen m | 警察车
airplane | plane, aeroplane, jet | Flieger m | 客机
helicopter | chopper | Helikopter m | 直升飞机
rocket | spaceship | Raumschiff n | 宇宙飞船
dragon | green dragon | grüner Drache m | 绿龙
eagle | | | 鹰
ghost | | Geist m | 鬼
tropical-fish | fish | Fisch m | 鱼, 小鱼
shark | | Haifisch m | 大鲨鱼
whale | blue whale | Blauwal m | 蓝鲸, 鲸
octopus | | Oktopus m | 八爪鱼
dolphin | | Delphin m | 小海豚
sailboat | sailing boat, boat | Segelschiff n, Boot n | 帆船, 小船
ship | steamer, cruise ship | Dampfer m, Kreuzfahrtschiff n | 船, 大船
duck | | | 鸭, 小鸭子
heart | heart | Herz n | 心, 爱心
star | star | Stern m | 星星
teddy-bear | teddy, bear | Teddy m, Bär m | 玩具熊, 小熊
christmas-tree | fir tree, tree | Tannenbaum m, Baum m | 圣诞节树
pumpkin | pumpkin | Kürbis m | 南瓜
"""


Named = tuple[str, Gender]
"""A name and its gender, which only German needs."""


def _other_names(table: str) -> dict[str, dict[Language, tuple[Named, ...]]]:
    found: dict[str, dict[Language, tuple[Named, ...]]] = {}
    for line in table.strip().splitlines():
        key, *columns = (part.strip() for part in line.split("|"))
        english, german, chinese = ([entry.strip() for entry in part.split(",") if entry.strip()] for part in columns)
        gendered = [entry.rsplit(" ", 1) for entry in german]
        found[key] = {
            "en": tuple((name, "n") for name in english),
            "de": tuple((name, cast(Gender, gender)) for name, gender in gendered),
            "zh": tuple((name, "n") for name in chinese),
        }
    return found


_OTHERS = _other_names(_NAMES)


def names(key: str, language: Language) -> list[Named]:
    """All names of a subject in a language, the one that captions use first."""
    subject = SUBJECTS[key]
    first = {"en": subject.english, "de": subject.german, "zh": subject.chinese}[language]
    return [(first, subject.gender), *_OTHERS.get(key, {}).get(language, ())]


# English: third person, and the participle.
_EN_ACTIONS: dict[Action, tuple[tuple[str, str], ...]] = {
    "walk": (("walks", "walking"), ("runs", "running"), ("is walking", "walking"), ("is running", "running")),
    "hop": (("hops", "hopping"), ("jumps", "jumping"), ("is jumping", "jumping")),
    "stand": (("stands still", "standing"), ("stands", "standing"), ("is standing", "standing"), ("sits", "sitting")),
    "drive": (("drives", "driving"), ("is driving", "driving"), ("drives fast", "driving fast")),
    "fly": (("flies", "flying"), ("is flying", "flying")),
    "swim": (("swims", "swimming"), ("is swimming", "swimming")),
    "sail": (("sails", "sailing"), ("is sailing", "sailing"), ("floats", "floating")),
    "bounce": (("bounces", "bouncing"), ("bounces up and down", "bouncing up and down"), ("is bouncing", "bouncing")),
    "spin": (("spins", "spinning"), ("turns around", "turning around")),
    "fall": (("falls", "falling"), ("falls down", "falling down")),
    "grow": (("grows", "growing"), ("gets bigger", "getting bigger")),
    "shrink": (("shrinks", "shrinking"), ("gets smaller", "getting smaller")),
}
_DE_ACTIONS: dict[Action, tuple[tuple[str, str], ...]] = {
    "walk": (("geht", ""), ("läuft", ""), ("rennt", "")),
    "hop": (("hüpft", ""), ("springt", "")),
    "stand": (("steht", "still"), ("steht", ""), ("sitzt", "")),
    "drive": (("fährt", ""), ("rollt", "")),
    "fly": (("fliegt", ""),),
    "swim": (("schwimmt", ""),),
    "sail": (("fährt", ""), ("segelt", ""), ("schwimmt", "")),
    "bounce": (("springt", "auf und ab"), ("hüpft", "auf und ab")),
    "spin": (("dreht sich", ""),),
    "fall": (("fällt", ""), ("fällt", "herunter")),
    "grow": (("wächst", ""), ("wird", "größer")),
    "shrink": (("schrumpft", ""), ("wird", "kleiner")),
}
_ZH_ACTIONS: dict[Action, tuple[str, ...]] = {
    "walk": ("走", "走路", "跑", "奔跑", "散步"),
    "hop": ("跳", "跳跃"),
    "stand": ("站着", "坐着", "一动不动"),
    "drive": ("开", "行驶"),
    "fly": ("飞", "飞翔", "飞行"),
    "swim": ("游", "游泳"),
    "sail": ("航行", "漂浮"),
    "bounce": ("上下弹跳", "蹦跳"),
    "spin": ("旋转",),
    "fall": ("掉落",),
    "grow": ("变大",),
    "shrink": ("变小",),
}
# Place | wordings on the ground, with a slash before what they are in the air above it where that differs.
_EN_PLACES = """
meadow | in a meadow / over a meadow, on the grass / over the grass, in a green field, in the park
desert | in the desert / over the desert, in a desert / over a desert
snowfield | in the snow / over the snow, in winter
beach | on the beach / over the beach, on a beach / above a beach, at the beach / above the beach
road | on the road / over the road, on a street / over a street, on the street / over the street
path | on a path / over a path, on a dirt road / over a dirt road
autumn | in autumn, in the fall, in an autumn forest / over an autumn forest
city | in the city / over the city, in a town / over a town, in a city / above a city
sea | on the sea / over the sea, on the ocean / over the ocean, on the water / over the water
underwater | under water, in the sea, in the ocean, underwater
room | in a room, in the living room, at home, in a house
"""
_DE_PLACES = """
meadow | auf einer Wiese / über einer Wiese, auf der Wiese / über der Wiese, im Gras, im Park
desert | in der Wüste / über der Wüste, in einer Wüste / über einer Wüste
snowfield | im Schnee / über dem Schnee, im Winter
beach | am Strand / über dem Strand, auf dem Strand / über einem Strand
road | auf der Straße / über der Straße, auf einer Straße / über einer Straße
path | auf einem Weg / über einem Weg, auf dem Feldweg / über dem Feldweg
autumn | im Herbst, im Herbstwald / über dem Herbstwald
city | in der Stadt / über der Stadt, in einer Stadt / über einer Stadt
sea | auf dem Meer / über dem Meer, auf dem Wasser / über dem Wasser
underwater | unter Wasser, im Meer
room | im Zimmer, in einem Zimmer, zu Hause, im Wohnzimmer
"""
_ZH_PLACES = """
meadow | 草地上 / 草地上空, 草原上 / 草原上空, 公园里 / 公园上空
desert | 沙漠里 / 沙漠上空, 沙漠中 / 沙漠上空
snowfield | 雪地里 / 雪地上空, 雪地上 / 雪地上空, 雪中 / 雪地上空
beach | 沙滩上 / 沙滩上空, 海滩上 / 海滩上空, 海边
road | 公路上 / 公路上空, 马路上 / 马路上空, 路上 / 路上空
path | 土路上 / 土路上空, 小路上 / 小路上空
autumn | 秋天里, 秋天的田野里 / 秋天的田野上空
city | 城市里 / 城市上空, 城里 / 城市上空
sea | 海上, 大海上 / 大海上空, 水面上 / 水面上空
underwater | 水下, 海里, 水里
room | 房间里, 屋里, 家里
"""
# Time of day or weather | wordings.
_EN_SKIES = """
day | on a sunny day, during the day, in the sun, in the sunshine
sunset | at sunset, in the evening, at dusk
night | at night, in the night, in the moonlight, in the dark
overcast | on a cloudy day, under a grey sky, on a grey day
rain | in the rain, while it rains, in rainy weather
snowfall | in falling snow, while it snows, in a snowstorm
"""
_DE_SKIES = """
day | an einem sonnigen Tag, am Tag, bei Sonnenschein
sunset | bei Sonnenuntergang, am Abend, abends
night | nachts, in der Nacht, bei Nacht
overcast | an einem bewölkten Tag, unter grauem Himmel
rain | im Regen, bei Regen
snowfall | im Schneefall, bei Schneefall
"""
_ZH_SKIES = """
day | 白天, 晴天, 阳光下
sunset | 日落时, 傍晚, 黄昏
night | 夜里, 晚上, 夜晚
overcast | 阴天, 多云的天气里
rain | 下雨时, 雨中, 下雨天
snowfall | 下雪时, 下雪天
"""


def _rows(table: str) -> dict[str, list[str]]:
    rows = (line.split(" | ") for line in table.strip().splitlines())
    return {key: words.split(", ") for key, words in rows}


def _places(table: str) -> dict[str, list[tuple[str, str]]]:
    """Each wording on the ground and in the air."""
    return {
        key: [(wording.partition(" / ")[0], wording.rpartition(" / ")[2]) for wording in wordings]
        for key, wordings in _rows(table).items()
    }


PLACES: dict[Language, dict[str, list[tuple[str, str]]]] = {
    "en": _places(_EN_PLACES), "de": _places(_DE_PLACES), "zh": _places(_ZH_PLACES),
}  # fmt: skip
"""Wordings of every place: on the ground, and in the air above it."""

SKIES: dict[Language, dict[str, list[str]]] = {"en": _rows(_EN_SKIES), "de": _rows(_DE_SKIES), "zh": _rows(_ZH_SKIES)}
"""Wordings of every time of day and weather but clear weather, which nobody mentions."""

_WAYS: dict[Language, dict[Direction, tuple[str, ...]]] = {
    "en": {"left": ("to the left", "left"), "right": ("to the right", "right")},
    "de": {"left": ("nach links",), "right": ("nach rechts",)},
    "zh": {"left": ("向左", "往左"), "right": ("向右", "往右")},
}
_EN_BIG, _DE_BIG = ("big", "large", "huge"), ("groß", "riesig")
_SMALL = {"en": ("small", "little"), "de": ("klein",)}
_ENDINGS: dict[Gender, tuple[str, str]] = {"m": ("ein", "er"), "f": ("eine", "e"), "n": ("ein", "es")}


def prompt(scene: Scene, language: Language, rng: random.Random) -> tuple[str, frozenset[str]]:
    """A short prompt that fits `scene`, and which of its facts it names: "subject", "size", "action", ..."""
    actor = scene.actors[0]
    told = {"subject"}
    outside = scene.place not in INDOORS
    chances = {
        "action": 0.5,
        "place": 0.55,
        "time": 0.35 if outside else 0.0,
        "weather": 0.6 if scene.weather != "clear" else 0.0,
        "size": 0.25 if actor.size != "medium" else 0.0,
    }
    told |= {name for name, chance in chances.items() if rng.random() < chance}
    if "action" in told and actor.direction != "none" and rng.random() < 0.5:
        told.add("direction")
    text = _WRITERS[language](scene, told, rng)
    if language != "zh" and rng.random() < 0.3:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.2:
        text += "。" if language == "zh" else "."
    return text, frozenset(told)


def _surroundings(scene: Scene, told: set[str], language: Language, rng: random.Random) -> tuple[str, str, str]:
    """Place, time and weather in words, "" where nothing is told of them."""
    flying = all(actor.action == "fly" for actor in scene.actors)
    place = rng.choice(PLACES[language][scene.place])[flying] if "place" in told else ""
    time = rng.choice(SKIES[language][scene.time]) if "time" in told else ""
    weather = rng.choice(SKIES[language][scene.weather]) if "weather" in told else ""
    return place, time, weather


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _size(size: Size, told: set[str], big: Sequence[str], small: Sequence[str], rng: random.Random) -> str:
    return rng.choice(big if size == "big" else small) if "size" in told else ""


def _english(scene: Scene, told: set[str], rng: random.Random) -> str:
    actor = scene.actors[0]
    name = _joined(_size(actor.size, told, _EN_BIG, _SMALL["en"], rng), rng.choice(names(actor.subject, "en"))[0])
    article = rng.choice(("a", "a", "a", "the", ""))
    if article == "a" and name[0].lower() in "aeiou":
        article = "an"
    way = rng.choice(_WAYS["en"][actor.direction]) if "direction" in told else ""
    act = rng.choice(_EN_ACTIONS[actor.action])[rng.random() < 0.4] if "action" in told else ""
    place, time, weather = _surroundings(scene, told, "en", rng)
    who = _joined(article, name, act, way)
    if time and rng.random() < 0.2:
        return f"{time}, {_joined(who, place, weather)}"
    if rng.random() < 0.2:
        return ", ".join(part for part in (who, place, time, weather) if part)
    return _joined(who, place, time, weather)


def _german(scene: Scene, told: set[str], rng: random.Random) -> str:
    actor = scene.actors[0]
    noun, gender = rng.choice(names(actor.subject, "de"))
    article, ending = _ENDINGS[gender]
    size = _size(actor.size, told, _DE_BIG, _SMALL["de"], rng)
    name = _joined(rng.choice((article, article, article, "")), size and size + ending, noun)
    verb, end = rng.choice(_DE_ACTIONS[actor.action]) if "action" in told else ("", "")
    way = rng.choice(_WAYS["de"][actor.direction]) if "direction" in told else ""
    place, time, weather = _surroundings(scene, told, "de", rng)
    if place and verb and rng.random() < 0.2:
        return _joined(place, verb, time, name, weather, way or end)
    return _joined(name, verb, time, place, weather, way or end)


def _chinese(scene: Scene, told: set[str], rng: random.Random) -> str:
    actor = scene.actors[0]
    name = rng.choice(names(actor.subject, "zh"))[0]
    size = rng.choice(("大", "巨大的", "很大的") if actor.size == "big" else ("小", "很小的")) if "size" in told else ""
    if size in ("大", "小") and name[0] in "大小红蓝绿黄白":
        size = "很" + size + "的"
    who = rng.choice((f"一{SUBJECTS[actor.subject].measure}", f"一{SUBJECTS[actor.subject].measure}", "")) + size + name
    way = rng.choice(_WAYS["zh"][actor.direction]) if "direction" in told else ""
    act = rng.choice(_ZH_ACTIONS[actor.action]) if "action" in told else ""
    place, time, weather = _surroundings(scene, told, "zh", rng)
    when = "，".join(part for part in (time, weather) if part)
    if place and not act and rng.random() < 0.3:
        body = f"{place}的{who}"
    else:
        body = f"{who}在{place}{way}{act}" if place else f"{who}{way}{act}"
    return f"{when}，{body}" if when and rng.random() < 0.7 else f"{body}，{when}" if when else body


_WRITERS = {"en": _english, "de": _german, "zh": _chinese}
