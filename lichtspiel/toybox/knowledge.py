"""What a model of the toybox world knows, in three languages, and whether a prompt is within it.

A model that was trained on forty subjects draws one of them whatever it is asked for. Here a prompt is read as far as
it goes: which subject it names, or which known one is nearest to what it names instead. Words are compared without
case, punctuation and inflection, and Chinese is cut at the names it holds. It knows nothing of models or weights: a
`Vocabulary` says what was learned.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from lichtspiel.toybox import prompts
from lichtspiel.toybox.captions import LANGUAGES, Language
from lichtspiel.toybox.catalog import SUBJECTS
from lichtspiel.toybox.sample import FULL, Vocabulary
from lichtspiel.toybox.scene import Action, Camera, Place, Time, Weather

__all__ = ["LEARNED", "known", "note", "reading", "stem", "subjects_in"]

LEARNED: dict[str, Vocabulary] = {
    "nano": replace(
        FULL,
        subjects=(
            *("cat", "dog", "horse", "cow", "pig", "rabbit", "elephant", "giraffe", "tiger", "monkey", "penguin"),
            *("bird", "turtle", "t-rex", "car", "taxi", "bus", "fire-engine", "police-car"),
            *("airplane", "helicopter", "rocket", "butterfly", "dragon", "eagle", "ghost"),
            *("tropical-fish", "shark", "whale", "octopus", "dolphin", "sailboat", "ship", "duck"),
            *("heart", "star", "snowman", "teddy-bear", "christmas-tree", "pumpkin"),
        ),
        actions=("walk", "hop", "drive", "fly", "swim", "sail", "stand", "bounce"),
        sizes=("medium", "big"),
        cameras=("still",),
        pairs=False,
    )
}
"""What the weights in this package were trained on, by the name of the model."""

_LABELS: dict[Language, dict[str, str]] = {
    "en": {
        "walk": "walk", "hop": "hop", "stand": "stand", "drive": "drive", "fly": "fly", "swim": "swim", "sail": "sail",
        "bounce": "bounce", "spin": "spin", "fall": "fall", "grow": "grow", "shrink": "shrink",
        "meadow": "meadow", "desert": "desert", "snowfield": "snowy field", "beach": "beach", "road": "road",
        "path": "dirt path", "autumn": "autumn field", "city": "city", "sea": "sea", "underwater": "under water",
        "room": "room", "day": "sunny day", "sunset": "sunset", "night": "night", "overcast": "cloudy day",
        "clear": "clear", "rain": "rain", "snowfall": "falling snow", "still": "still", "zoom-in": "zooms in",
        "zoom-out": "zooms out", "pan-left": "pans to the left", "pan-right": "pans to the right",
    },
    "de": {
        "walk": "gehen", "hop": "hüpfen", "stand": "stehen", "drive": "fahren", "fly": "fliegen", "swim": "schwimmen",
        "sail": "segeln", "bounce": "federn", "spin": "sich drehen", "fall": "fallen", "grow": "wachsen",
        "shrink": "schrumpfen", "meadow": "Wiese", "desert": "Wüste", "snowfield": "verschneites Feld",
        "beach": "Strand", "road": "Straße", "path": "Feldweg", "autumn": "herbstliches Feld", "city": "Stadt",
        "sea": "Meer", "underwater": "unter Wasser", "room": "Zimmer", "day": "sonniger Tag",
        "sunset": "Sonnenuntergang", "night": "Nacht", "overcast": "bewölkter Tag", "clear": "trocken",
        "rain": "Regen", "snowfall": "Schneefall", "still": "steht still", "zoom-in": "zoomt heran",
        "zoom-out": "zoomt heraus", "pan-left": "schwenkt nach links", "pan-right": "schwenkt nach rechts",
    },
    "zh": {
        "walk": "走", "hop": "跳", "stand": "站着", "drive": "行驶", "fly": "飞", "swim": "游", "sail": "航行",
        "bounce": "上下弹跳", "spin": "旋转", "fall": "掉落", "grow": "变大", "shrink": "变小", "meadow": "草地",
        "desert": "沙漠", "snowfield": "雪地", "beach": "沙滩", "road": "公路", "path": "土路", "autumn": "秋天的田野",
        "city": "城市", "sea": "大海", "underwater": "水下", "room": "房间", "day": "晴天", "sunset": "日落",
        "night": "夜晚", "overcast": "阴天", "clear": "无雨雪", "rain": "下雨", "snowfall": "下雪", "still": "静止",
        "zoom-in": "推近", "zoom-out": "拉远", "pan-left": "向左摇", "pan-right": "向右摇",
    },
}  # fmt: skip
"""Short labels of everything but subjects, whose names stand in the catalogue."""

# Known subject | words in English, German and Chinese for things that are most like it. All of the catalogue is here.
_NEAR = """
cat | lion, black cat, lynx, Katzen, Kätzchen, Löwe, Luchs, 狮子, 黑猫
dog | poodle, wolf, fox, hound, badger, hyena, Pudel, Wolf, Fuchs, Dachs, Welpe, 贵宾犬, 狼, 狐狸, 獾
horse | donkey, zebra, unicorn, mule, deer, camel, llama, goat, Esel, Zebra, Einhorn, Hirsch, Reh, Kamel, Dromedar
horse | Lama, Ziege
horse | 驴, 斑马, 独角兽, 鹿, 骆驼, 羊驼, 山羊
cow | bull, ox, buffalo, bison, sheep, ram, Stier, Ochse, Büffel, Schaf, Widder, 公牛, 水牛, 绵羊, 羊
pig | boar, hippo, rhino, skunk, Wildschwein, Nilpferd, Nashorn, 野猪, 河马, 犀牛
rabbit | mouse, rat, squirrel, hamster, hedgehog, kangaroo, beaver, Maus, Ratte, Eichhörnchen, Hamster, Igel, Känguru
rabbit | Biber
rabbit | 老鼠, 松鼠, 仓鼠, 刺猬, 袋鼠
elephant | mammoth, Mammut, 猛犸象
giraffe | sauropod, long-necked dinosaur
tiger | leopard, cheetah, panther, jaguar, Leopard, Gepard, Panther, 豹子, 豹
monkey | gorilla, ape, chimpanzee, orangutan, panda, Gorilla, Schimpanse, Panda, 大猩猩, 猩猩, 熊猫
bird | chicken, chick, hen, rooster, parrot, robin, owl, flamingo, peacock, turkey, dodo, dove, pigeon, Huhn, Küken
bird | Hahn, Papagei, Eule, Pfau, Truthahn, Taube
bird | 鸡, 小鸡, 公鸡, 鹦鹉, 猫头鹰, 火烈鸟, 孔雀, 鸽子
turtle | snail, crab, lizard, crocodile, frog, snake, Schnecke, Krabbe, Eidechse, Krokodil, Frosch, Schlange
turtle | 蜗牛, 螃蟹, 鳄鱼, 青蛙, 蛇
t-rex | godzilla, monster, tyrannosaur, Monster, 怪兽
car | jeep, van, minibus, race car, sports car, convertible, motorcycle, motorbike, bicycle, bike, rickshaw, SUV
car | Rennwagen, Motorrad, Fahrrad, Geländewagen
car | 吉普车, 面包车, 赛车, 摩托车, 自行车
bus | truck, lorry, train, tram, locomotive, tractor, trolleybus, Lastwagen, LKW, Zug, Bahn, Lokomotive, Traktor
bus | 卡车, 火车, 拖拉机, 电车
fire-engine | ambulance, Krankenwagen, 救护车
airplane | propeller plane, glider, drone, parachute, parachutist, Segelflugzeug, Drohne, Fallschirm, 无人机, 降落伞
helicopter | quadcopter
rocket | spacecraft, shuttle, missile, flying saucer, UFO, satellite, Untertasse, Satellit, 飞碟, 卫星
butterfly | bee, fly, mosquito, ladybug, beetle, dragonfly, moth, bat, spider, Biene, Fliege, Mücke, Marienkäfer
butterfly | Käfer, Libelle, Fledermaus, Spinne
butterfly | 蜜蜂, 苍蝇, 瓢虫, 甲虫, 蜻蜓, 蝙蝠, 蜘蛛
dragon | wyvern, dinosaur dragon, Lindwurm
eagle | hawk, falcon, vulture, Falke, Habicht, Geier, 隼
ghost | spirit, phantom, jellyfish, Qualle, 水母
tropical-fish | goldfish, salmon, pufferfish, blue fish, Goldfisch, Lachs, Kugelfisch, 金鱼, 河豚
whale | orca, seal, Robbe, Seehund, 海豹
octopus | squid, lobster, shrimp, Tintenfisch, Hummer, Garnele, 鱿鱼, 龙虾, 虾
sailboat | yacht, canoe, kayak, raft, Jacht, Kanu, Kajak, Floß, 独木舟
ship | motorboat, speedboat, ferry, submarine, Motorboot, Schnellboot, Fähre, U-Boot, 快艇, 轮渡, 潜艇, 游艇
duck | swan, goose, Schwan, Gans, 天鹅, 鹅
heart | rose, flower, balloon, ball, Rose, Blume, Ballon, Ball, 花, 玫瑰, 气球, 球
star | sun, moon, planet, Sonne, Mond, Planet, 太阳, 月亮, 行星
snowman | man, woman, person, child, boy, girl, robot, Mann, Frau, Mensch, Kind, Junge, Mädchen, Roboter
snowman | 人, 男人, 女人, 孩子, 男孩, 女孩, 机器人
teddy-bear | doll, polar bear, bear cub, Puppe, Eisbär, 娃娃, 北极熊, 熊
christmas-tree | palm, forest, plant, Palme, Wald, Pflanze, 树, 棕榈树, 森林
pumpkin | apple, orange, cake, tomato, Apfel, Orange, Torte, Kuchen, Tomate, 苹果, 橙子, 蛋糕, 番茄
"""

_FILLER_WORDS = """
a an the of in on at over under above by to and with from while is are it as that this there some one two
left right big large huge small little tiny video clip very slowly fast towards day sun sunny grey green
ein eine einen einem einer eines der die das den dem des im am auf über unter an bei mit und von nach zu links
rechts groß klein riesig winzig es während sehr langsam schnell
"""
_FILLERS = frozenset(_FILLER_WORDS.split())
"""Words that name nothing."""

_CHINESE = re.compile(r"[\u3400-\u9fff]+")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_ENDINGS = ("innen", "chen", "lein", "ies", "ern", "ing", "es", "en", "er", "em", "ed", "s", "e", "n", "y")


def stem(word: str) -> str:
    """A word without case, umlauts and the endings of English and German inflection; rough, for comparing only."""
    plain = unicodedata.normalize("NFD", word.casefold().replace("æ", "ae"))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    for _ in range(2):
        for ending in _ENDINGS:
            if plain.endswith(ending) and len(plain) - len(ending) >= 3:
                plain = plain[: -len(ending)]
                break
    return plain[:-1] if len(plain) > 3 and plain[-1] == plain[-2] else plain


def known(world: Vocabulary) -> dict[str, dict[Language, list[str]]]:
    """Everything a world has, in words: for each attribute and language a list, in the world's order."""

    def label(language: Language, value: Action | Place | Time | Weather | Camera) -> str:
        return _LABELS[language][value]

    found: dict[str, dict[Language, list[str]]] = {
        "subjects": {language: [prompts.names(key, language)[0][0] for key in world.subjects] for language in LANGUAGES}
    }
    others = {
        "actions": world.actions, "places": world.places, "times": world.times, "weathers": world.weathers,
        "cameras": world.cameras,
    }  # fmt: skip
    for attribute, values in others.items():
        found[attribute] = {language: [label(language, value) for value in values] for language in LANGUAGES}
    return found


def subjects_in(prompt: str, world: Vocabulary) -> list[str]:
    """The keys of the world's subjects that a prompt names, in the order of the words."""
    return [key for key, _ in _named(prompt, _names_of(world.subjects))]


def reading(prompt: str, world: Vocabulary) -> dict[str, Any]:
    """What a world has of a prompt: the `subjects` it names, or the one `nearest` to a word of it, in each language."""
    named = subjects_in(prompt, world)
    near = None if named else next(_nearest(prompt, world), None)
    nearest = near and {
        "word": near[1],
        "subject": {language: prompts.names(near[0], language)[0][0] for language in LANGUAGES},
    }
    return {"subjects": [prompts.names(key, "en")[0][0] for key in named], "nearest": nearest}


def note(prompt: str, world: Vocabulary, model: str) -> str | None:
    """What somebody should know who typed a prompt without a subject of this world; None where it names one.

    An empty prompt names nothing on purpose.
    """
    if not prompt.strip() or subjects_in(prompt, world):
        return None
    examples = ", ".join(known(world)["subjects"]["en"][:8])
    knows = f"{model} knows {len(world.subjects)} subjects, such as {examples}"
    for key, word in _nearest(prompt, world):
        return f"{knows}; nearest to {word!r} is {prompts.names(key, 'en')[0][0]!r}"
    return f"{knows}; the prompt names none of them"


Names = dict[tuple[str, ...], str]
"""Subjects' keys by the stems of the words of their names; Chinese names are one word."""


@lru_cache(maxsize=8)
def _names_of(subjects: tuple[str, ...]) -> Names:
    found: Names = {}
    for key in subjects:
        for language in LANGUAGES:
            for name, _ in prompts.names(key, language):
                found.setdefault(_key_of(name), key)
    return found


def _key_of(name: str) -> tuple[str, ...]:
    return (name,) if _CHINESE.search(name) else tuple(map(stem, _WORD.findall(name)))


@lru_cache(maxsize=1)
def _near() -> Names:
    """What is named by words of no world at all, or of the whole catalogue, and is most like a subject."""
    found: Names = {}
    for line in _NEAR.strip().splitlines():
        key, words = line.split(" | ")
        for word in words.split(", "):
            found.setdefault(_key_of(word), key)
    return found


def _named(prompt: str, names: Names) -> Iterator[tuple[str, str]]:
    """Keys of the names in a prompt, longest names first at every place, and the words they were found as."""
    for part in re.findall(rf"{_CHINESE.pattern}|[^\u3400-\u9fff]+", prompt):
        if _CHINESE.match(part):
            yield from _named_chinese(part, names)
            continue
        words = _WORD.findall(part)
        stems = [stem(word) for word in words]
        start = 0
        while start < len(words):
            for length in (3, 2, 1):
                found = names.get(tuple(stems[start : start + length]))
                if found and start + length <= len(words):
                    yield found, " ".join(words[start : start + length])
                    start += length - 1
                    break
            start += 1


def _named_chinese(text: str, names: Names) -> Iterator[tuple[str, str]]:
    start = 0
    while start < len(text):
        for length in range(min(6, len(text) - start), 0, -1):
            found = names.get((text[start : start + length],))
            if found:
                yield found, text[start : start + length]
                start += length - 1
                break
        start += 1


def _nearest(prompt: str, world: Vocabulary) -> Iterator[tuple[str, str]]:
    """Known subjects most like what a prompt names, by the table, then by spelling."""
    everything = _names_of(tuple(SUBJECTS))
    table = {words: key for words, key in _near().items() if key in world.subjects}
    yield from _named(prompt, table)
    for key, word in _named(prompt, everything):
        kind = SUBJECTS[key].kind
        yield from ((other, word) for other in world.subjects if SUBJECTS[other].kind == kind)
    spelt = {words[0]: key for words, key in _names_of(world.subjects).items() if len(words) == 1}
    for word in _WORD.findall(prompt):
        if word.casefold() not in _FILLERS and len(word) > 3:
            for close in get_close_matches(stem(word), spelt, n=1, cutoff=0.8):
                yield spelt[close], word
