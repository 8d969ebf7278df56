"""The subjects of the toybox world and their names in English, German and Chinese.

One row per subject: what it is, which way its drawing faces and what it is called. Knows nothing of pixels (see
`sprites`) or of sentences (see `captions`). Every drawing is one of Microsoft's animated Fluent characters (MIT),
named by its Unicode code points without the presentation selector FE0F.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from lichtspiel.toybox.scene import Kind

__all__ = ["STARTER", "SUBJECTS", "Faces", "Gender", "Subject"]

Faces = Literal["left", "right", "front"]
Gender = Literal["m", "f", "n"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One character; `faces` is the direction in which its sprite in the bank faces before it is mirrored.

    The nouns are singular and have no article. `german` is the form after the nominative "ein" or "eine" (so an
    adjective in it already has its ending), and `gender` selects the article and all other endings; `measure` is the
    measure word with which `chinese` is counted (一只狗).
    """

    key: str
    code_point: str
    kind: Kind
    faces: Faces
    english: str
    german: str
    gender: Gender
    chinese: str
    measure: str


# key | code point | faces | English ("=": the key in words) | German | gender | Chinese | measure word
_LAND = """
ant | 1f41c | left | = | Ameise | f | 蚂蚁 | 只
badger | 1f9a1 | left | = | Dachs | m | 獾 | 只
beaver | 1f9ab | left | = | Biber | m | 河狸 | 只
beetle | 1fab2 | front | green beetle | grüner Käfer | m | 绿色甲虫 | 只
bird | 1f426 | left | red bird | roter Vogel | m | 红鸟 | 只
bison | 1f9ac | left | = | Bison | n | 美洲野牛 | 头
black-cat | 1f408-200d-2b1b | left | = | schwarze Katze | f | 黑猫 | 只
buffalo | 1f403 | left | water buffalo | Wasserbüffel | m | 水牛 | 头
bull | 1f402 | left | = | Stier | m | 公牛 | 头
camel | 1f42a | left | = | Dromedar | n | 单峰骆驼 | 头
cat | 1f408 | left | = | Katze | f | 猫 | 只
caterpillar | 1f41b | left | = | Raupe | f | 毛毛虫 | 条
chick | 1f424 | left | = | Küken | n | 小鸡 | 只
cockroach | 1fab3 | front | = | Kakerlake | f | 蟑螂 | 只
cow | 1f404 | left | = | Kuh | f | 奶牛 | 头
crab | 1f980 | front | = | Krabbe | f | 螃蟹 | 只
deer | 1f98c | left | = | Hirsch | m | 鹿 | 头
dodo | 1f9a4 | left | = | Dodo | m | 渡渡鸟 | 只
dog | 1f415 | left | = | Hund | m | 狗 | 只
donkey | 1facf | left | = | Esel | m | 驴 | 头
elephant | 1f418 | left | = | Elefant | m | 大象 | 头
flamingo | 1f9a9 | left | = | Flamingo | m | 火烈鸟 | 只
giraffe | 1f992 | left | = | Giraffe | f | 长颈鹿 | 只
goat | 1f410 | left | = | Ziege | f | 山羊 | 只
goose | 1fabf | left | = | Gans | f | 鹅 | 只
gorilla | 1f98d | left | = | Gorilla | m | 大猩猩 | 只
grasshopper | 1f997 | left | = | Grashüpfer | m | 蚱蜢 | 只
hedgehog | 1f994 | left | = | Igel | m | 刺猬 | 只
hippo | 1f99b | left | = | Nilpferd | n | 河马 | 头
horse | 1f40e | left | = | Pferd | n | 马 | 匹
kangaroo | 1f998 | left | = | Känguru | n | 袋鼠 | 只
ladybug | 1f41e | front | = | Marienkäfer | m | 瓢虫 | 只
leopard | 1f406 | left | = | Leopard | m | 豹子 | 只
llama | 1f999 | left | = | Lama | n | 羊驼 | 只
mammoth | 1f9a3 | left | = | Mammut | n | 猛犸象 | 头
monkey | 1f412 | left | = | Affe | m | 猴子 | 只
mouse | 1f401 | left | = | Maus | f | 老鼠 | 只
orangutan | 1f9a7 | front | = | Orang-Utan | m | 红毛猩猩 | 只
owl | 1f989 | front | = | Eule | f | 猫头鹰 | 只
parrot | 1f99c | left | = | Papagei | m | 鹦鹉 | 只
peacock | 1f99a | left | = | Pfau | m | 孔雀 | 只
penguin | 1f427 | front | = | Pinguin | m | 企鹅 | 只
pig | 1f416 | left | = | Schwein | n | 猪 | 头
poodle | 1f429 | left | = | Pudel | m | 贵宾犬 | 只
rabbit | 1f407 | left | = | Kaninchen | n | 兔子 | 只
ram | 1f40f | left | = | Widder | m | 公羊 | 只
rhino | 1f98f | left | = | Nashorn | n | 犀牛 | 头
rooster | 1f413 | left | = | Hahn | m | 公鸡 | 只
sauropod | 1f995 | left | long-necked dinosaur | Langhalssaurier | m | 长颈恐龙 | 只
scorpion | 1f982 | front | = | Skorpion | m | 蝎子 | 只
sheep | 1f411 | left | = | Schaf | n | 绵羊 | 只
skunk | 1f9a8 | left | = | Stinktier | n | 臭鼬 | 只
snail | 1f40c | left | = | Schnecke | f | 蜗牛 | 只
snake | 1f40d | left | = | Schlange | f | 蛇 | 条
spider | 1f577 | front | = | Spinne | f | 蜘蛛 | 只
squirrel | 1f43f | left | = | Eichhörnchen | n | 松鼠 | 只
t-rex | 1f996 | left | tyrannosaurus | Tyrannosaurus | m | 霸王龙 | 只
tiger | 1f405 | left | = | Tiger | m | 老虎 | 只
turkey | 1f983 | left | = | Truthahn | m | 火鸡 | 只
turtle | 1f422 | left | = | Schildkröte | f | 乌龟 | 只
two-humped-camel | 1f42b | left | two-humped camel | Trampeltier | n | 双峰骆驼 | 头
zebra | 1f993 | left | = | Zebra | n | 斑马 | 匹
"""
_VEHICLES = """
ambulance | 1f691 | left | = | Krankenwagen | m | 救护车 | 辆
bus | 1f68c | left | = | Bus | m | 公共汽车 | 辆
car | 1f697 | left | red car | rotes Auto | n | 红色轿车 | 辆
delivery-van | 1f69a | left | = | Lieferwagen | m | 送货车 | 辆
fire-engine | 1f692 | left | = | Feuerwehrauto | n | 消防车 | 辆
jeep | 1f699 | left | blue SUV | blauer Geländewagen | m | 蓝色越野车 | 辆
locomotive | 1f682 | left | steam locomotive | Dampflokomotive | f | 蒸汽机车 | 台
minibus | 1f690 | left | = | Kleinbus | m | 面包车 | 辆
motorcycle | 1f3cd | left | = | Motorrad | n | 摩托车 | 辆
police-car | 1f693 | left | = | Polizeiauto | n | 警车 | 辆
race-car | 1f3ce | left | = | Rennwagen | m | 赛车 | 辆
rickshaw | 1f6fa | left | auto rickshaw | Autorikscha | f | 机动三轮车 | 辆
taxi | 1f695 | left | = | Taxi | n | 出租车 | 辆
tractor | 1f69c | left | = | Traktor | m | 拖拉机 | 辆
trolleybus | 1f68e | left | = | Oberleitungsbus | m | 无轨电车 | 辆
truck | 1f69b | left | = | Lastwagen | m | 卡车 | 辆
"""
_FLYERS = """
airplane | 2708 | right | = | Flugzeug | n | 飞机 | 架
bat | 1f987 | left | = | Fledermaus | f | 蝙蝠 | 只
bee | 1f41d | left | = | Biene | f | 蜜蜂 | 只
butterfly | 1f98b | front | = | Schmetterling | m | 蝴蝶 | 只
dove | 1f54a | left | = | Taube | f | 白鸽 | 只
dragon | 1f409 | left | = | Drache | m | 龙 | 条
eagle | 1f985 | left | = | Adler | m | 老鹰 | 只
flying-saucer | 1f6f8 | front | = | fliegende Untertasse | f | 飞碟 | 架
fly | 1fab0 | front | = | Fliege | f | 苍蝇 | 只
ghost | 1f47b | front | = | Gespenst | n | 幽灵 | 个
helicopter | 1f681 | left | = | Hubschrauber | m | 直升机 | 架
mosquito | 1f99f | left | = | Mücke | f | 蚊子 | 只
parachutist | 1fa82 | front | = | Fallschirmspringer | m | 跳伞员 | 名
propeller-plane | 1f6e9 | right | = | Propellerflugzeug | n | 螺旋桨飞机 | 架
rocket | 1f680 | right | = | Rakete | f | 火箭 | 枚
"""
_SWIMMERS = """
dolphin | 1f42c | left | = | Delfin | m | 海豚 | 只
fish | 1f41f | left | blue fish | blauer Fisch | m | 蓝色的鱼 | 条
jellyfish | 1fabc | front | = | Qualle | f | 水母 | 只
lobster | 1f99e | front | = | Hummer | m | 龙虾 | 只
octopus | 1f419 | left | = | Krake | m | 章鱼 | 只
pufferfish | 1f421 | left | = | Kugelfisch | m | 河豚 | 条
seal | 1f9ad | left | = | Robbe | f | 海豹 | 只
shark | 1f988 | left | = | Hai | m | 鲨鱼 | 条
shrimp | 1f990 | left | = | Garnele | f | 虾 | 只
squid | 1f991 | front | = | Tintenfisch | m | 鱿鱼 | 只
tropical-fish | 1f420 | left | = | Tropenfisch | m | 热带鱼 | 条
whale | 1f40b | left | = | Wal | m | 鲸鱼 | 头
"""
_BOATS = """
canoe | 1f6f6 | front | = | Kanu | n | 独木舟 | 艘
duck | 1f986 | left | = | Ente | f | 鸭子 | 只
motorboat | 1f6e5 | left | motor yacht | Motorjacht | f | 游艇 | 艘
sailboat | 26f5 | left | = | Segelboot | n | 帆船 | 艘
ship | 1f6a2 | left | = | Schiff | n | 轮船 | 艘
speedboat | 1f6a4 | left | = | Schnellboot | n | 快艇 | 艘
swan | 1f9a2 | left | = | Schwan | m | 天鹅 | 只
"""
_THINGS = """
alarm-clock | 23f0 | front | = | Wecker | m | 闹钟 | 个
beer-mug | 1f37a | front | = | Bierkrug | m | 啤酒杯 | 个
birthday-cake | 1f382 | front | = | Geburtstagstorte | f | 生日蛋糕 | 个
christmas-tree | 1f384 | front | Christmas tree | Weihnachtsbaum | m | 圣诞树 | 棵
clock | 1f570 | front | mantel clock | Kaminuhr | f | 座钟 | 个
coffee-cup | 2615 | front | = | Kaffeetasse | f | 咖啡杯 | 个
crystal-ball | 1f52e | front | = | Kristallkugel | f | 水晶球 | 个
heart | 2764 | front | red heart | rotes Herz | n | 红心 | 颗
log | 1fab5 | front | wooden log | Holzklotz | m | 木头 | 块
planet | 1fa90 | front | ringed planet | Ringplanet | m | 带环行星 | 颗
pumpkin | 1f383 | front | Halloween pumpkin | Halloweenkürbis | m | 南瓜灯 | 个
roller-skate | 1f6fc | right | = | Rollschuh | m | 轮滑鞋 | 只
seashell | 1f41a | front | = | Muschel | f | 海螺 | 个
snowman | 26c4 | front | = | Schneemann | m | 雪人 | 个
space-monster | 1f47e | front | = | Weltraummonster | n | 太空怪物 | 个
star | 2b50 | front | yellow star | gelber Stern | m | 黄色星星 | 颗
teddy-bear | 1f9f8 | front | = | Teddybär | m | 泰迪熊 | 只
tropical-drink | 1f379 | front | cocktail glass | Cocktailglas | n | 鸡尾酒杯 | 个
umbrella | 2602 | front | = | Regenschirm | m | 雨伞 | 把
watch | 231a | front | wristwatch | Armbanduhr | f | 手表 | 块
"""


def _read(kind: Kind, table: str) -> dict[str, Subject]:
    subjects = {}
    for line in table.strip().splitlines():
        key, code_point, faces, english, german, gender, chinese, measure = line.split(" | ")
        subjects[key] = Subject(
            key=key,
            code_point=code_point,
            kind=kind,
            faces=cast(Faces, faces),
            english=key.replace("-", " ") if english == "=" else english,
            german=german,
            gender=cast(Gender, gender),
            chinese=chinese,
            measure=measure,
        )
    return subjects


SUBJECTS: dict[str, Subject] = {
    **_read("land", _LAND),
    **_read("vehicle", _VEHICLES),
    **_read("flyer", _FLYERS),
    **_read("swimmer", _SWIMMERS),
    **_read("boat", _BOATS),
    **_read("thing", _THINGS),
}
"""Every subject by its key."""

STARTER: tuple[str, ...] = (
    *("turtle", "elephant", "penguin", "cat", "pig", "zebra", "flamingo", "chick", "giraffe", "t-rex"),
    *("taxi", "bus", "fire-engine", "police-car", "tractor"),
    *("butterfly", "rocket", "bee", "helicopter"),
    *("tropical-fish", "whale", "octopus"),
    *("sailboat", "duck"),
)
"""The subjects that are easiest to tell apart at 64×64 pixels, for small models and their judge."""
