"""Examples of each verb, as they are typed. Help and `docs/cli.md` show them, and tests parse them."""

from __future__ import annotations

__all__ = ["EXAMPLES"]

EXAMPLES: dict[str, tuple[str, ...]] = {
    # what is typed after `lichtspiel`: examples
    "generate": (
        'lichtspiel generate "a dragon flies over a meadow" -o dragon.mp4 --upscale 1',
        'lichtspiel generate "a dragon flies" --image dragon.png --seed 7 -o dragon.mp4',
        'lichtspiel generate "a cat on a beach" --model t2v-1.3b --weights ~/Wan2.1-T2V-1.3B --seconds 5 -o cat.mp4',
        'lichtspiel generate "a river in autumn" --model t2v-1.3b --seconds 20 -o river.mp4',
        'lichtspiel generate "a dog" --model vace-1.3b --video cat.mp4 --mask mask.png --reference dog.png -o dog.mp4',
        'lichtspiel generate "a street at night" --model t2v-1.3b --video day.mp4 --strength 0.6 -o night.mp4',
    ),
    "decode": ("lichtspiel decode latents.safetensors -o video.mp4",),
    "batch": ("lichtspiel batch jobs.jsonl -o videos",),
    "replay": (
        "lichtspiel replay dragon.mp4 -o again.mp4",
        "lichtspiel replay dragon.mp4 --input dragon.png -o again.mp4",
    ),
    "track": (
        "lichtspiel track clip.mp4 --box 120,40,300,220 --at 2.0 -o mask.mp4 --sheet look.png",
        "lichtspiel track clip.mp4 --object mask.png --shape box --grow 12 -o mask.mp4",
    ),
    "index": (
        "lichtspiel index videos",
        "lichtspiel index videos --index videos.sqlite --workers 2 --look-for text,speech,labels",
    ),
    "moderate": (
        "lichtspiel moderate uploads --policy shop.toml --json",
        "lichtspiel moderate uploads --queue --sheets evidence",
        'lichtspiel moderate uploads/a.mp4 --decide allowed --note "a statue"',
        "lichtspiel moderate labeled --calibrate labels.csv -o thresholds.toml",
    ),
    "recommend": (
        "lichtspiel recommend --liked a.mp4 --liked b.mp4 --disliked c.mp4",
        "lichtspiel recommend --events plays.csv --viewer ada --limit 5",
        "lichtspiel recommend --events plays.csv --measure",
    ),
    "curate": (
        "lichtspiel curate raw -o dataset --workers 2",
        "lichtspiel curate raw -o dataset --no-faces --captioned --shards --ray auto",
    ),
    "evaluate": ("lichtspiel evaluate made --prompts prompts.txt --report report.html",),
    "search": (
        'lichtspiel search "a car at night in the rain"',
        "lichtspiel search --like dragon.mp4 --sheet found.png",
    ),
    "edit": (
        'lichtspiel edit clip.mp4 "a red vintage car" --replace 120,40,300,220 --at 2.0 -o new.mp4',
        'lichtspiel edit clip.mp4 "a parrot" --add 400,80,480,160 --reference parrot.png --preview look.png',
        'lichtspiel edit clip.mp4 "an empty street" --remove mask.mp4 -o empty.mp4',
        'lichtspiel edit clip.mp4 "a street in the rain" --outpaint 1280x720 -o wide.mp4',
        "lichtspiel edit clip.mp4 --edits edits.jsonl --model vace-14b -o new.mp4",
    ),
    "extend": ('lichtspiel extend clip.mp4 "the dragon flies on over the meadow" --seconds 4 -o longer.mp4',),
    "bridge": ('lichtspiel bridge one.mp4 two.mp4 "the dragon flies over the meadow" -o joined.mp4',),
    "loop": ('lichtspiel loop clip.mp4 "a dragon flies over a meadow" -o loop.mp4',),
    "control": (
        "lichtspiel control clip.mp4 --kind edges -o control.mp4",
        "lichtspiel control clip.mp4 --kind boxes --box 120,40,300,220 -o layout.mp4",
        "lichtspiel control clip.mp4 --kind depth --network depth_anything.onnx -o depth.mp4",
    ),
    "verify": ("lichtspiel verify dragon.mp4", "lichtspiel verify downloads --require sealed --json"),
    "seal": (
        'lichtspiel seal clip.mp4 --made-with "Wan2.1 in ComfyUI" -o sealed.mp4',
        "lichtspiel seal output/ flux.png --made-with ComfyUI -o sealed",
    ),
    "translate": (
        "lichtspiel translate talk.mp4 --to es -o talk.es.mp4",
        'lichtspiel translate talk.mp4 --to es --voice espeak --consent "Ada, who speaks, agreed on 3 May"',
        "lichtspiel translate talk.mp4 --to de --subtitles talk.de.srt --burn",
        "lichtspiel translate talk.mp4 --to zh --transcriber whisper:models/small --translator argos:en_zh.argosmodel",
    ),
    "transcribe": ("lichtspiel transcribe talk.mp4", "lichtspiel transcribe talk.mp4 -o talk.srt"),
    "languages": ("lichtspiel languages",),
    "models": ("lichtspiel models",),
    "show": ("lichtspiel show t2v-1.3b",),
    "pull": ("lichtspiel pull t2v-1.3b", "lichtspiel pull t2v-1.3b --to models/t2v-1.3b"),
    "use": (
        "lichtspiel use t2v-1.3b ~/ComfyUI/models",
        "lichtspiel use t2v-14b dit.gguf umt5.safetensors vae.safetensors",
        "lichtspiel use t2v-1.3b --forget",
    ),
    "config": ("lichtspiel config",),
    "inspect": ("lichtspiel inspect ComfyUI/models",),
    "plan": (
        "lichtspiel plan --model t2v-14b --size 832x480 --frames 81",
        "lichtspiel plan --model t2v-14b --dtype bfloat16 --memory 24",
    ),
    "calibrate": (
        'lichtspiel calibrate "a ship sails on a stormy sea" --model flf2v-14b --image first.png --last-image last.png',
    ),
    "lora inspect": ("lichtspiel lora inspect style.safetensors",),
    "lora convert": ("lichtspiel lora convert style.safetensors --to diffusers -o converted.safetensors",),
    "lora merge": (
        "lichtspiel lora merge style.safetensors:0.8 cat.safetensors -o both.safetensors",
        "lichtspiel lora merge style.safetensors --model t2v-1.3b -o merged",
    ),
    "lora extract": ("lichtspiel lora extract tuned --model t2v-1.3b --rank 32 -o tuned.safetensors",),
    "lora resize": ("lichtspiel lora resize style.safetensors --rank 8 -o small.safetensors",),
    "policy show": ("lichtspiel policy show",),
    "policy check": ('lichtspiel policy check "a portrait of my neighbor" --image photo.png',),
    "policy refusals": ("lichtspiel policy refusals --limit 5",),
    "identity init": ("lichtspiel identity init",),
    "identity show": ("lichtspiel identity show",),
    "identity import": ("lichtspiel identity import --certificate chain.pem --key key.pem",),
    "record list": ("lichtspiel record list --limit 5", "lichtspiel record list --database postgresql://host/jobs"),
    "record show": ("lichtspiel record show 3f2a91c0",),
    "record find": ('lichtspiel record find "a dragon"',),
    "record erase": ("lichtspiel record erase 3f2a91c0",),
    "record export": ("lichtspiel record export > record.jsonl",),
    "tune check": (
        "lichtspiel tune check data --model t2v-1.3b --weights ~/Wan2.1-T2V-1.3B",
        "lichtspiel tune check data --model nano --trigger ohwx --rank 8",
    ),
    "tune look": ("lichtspiel tune look data --model t2v-1.3b --frames 17 --frames 33 -o look",),
    "tune lora": (
        "lichtspiel tune lora data --model t2v-1.3b --trigger ohwx --rank 32 --steps 2000 -o runs/cat",
        "lichtspiel tune lora data --model nano --keep keep.txt --learning-rate 2e-3 --steps 500 -o runs/nano",
    ),
    "tune full": ("lichtspiel tune full data --model t2v-1.3b --optimizer muon -o runs/full",),
    "toybox render": ("lichtspiel toybox render --count 8 --seed 3 -o clips",),
    "train vae": ("lichtspiel train vae --run runs/nano --minutes 60",),
    "train dit": ("lichtspiel train dit --run runs/nano --minutes 60",),
    "serve": (
        "lichtspiel serve",
        "lichtspiel serve --model t2v-1.3b --weights ~/Wan2.1-T2V-1.3B --device cuda",
        "lichtspiel serve --host 0.0.0.0 --require-key",
    ),
    "serve key create": (
        "lichtspiel serve key create ada --limit 20/h",
        "lichtspiel serve key create grace --days 90 --video-seconds 600/d --worker-seconds 3600/d",
        "lichtspiel serve key create batch --at-once 1 --storage 10GB --priority -1",
    ),
    "serve key renew": ("lichtspiel serve key renew ada --days 90",),
    "serve key list": ("lichtspiel serve key list",),
    "serve key revoke": ("lichtspiel serve key revoke ada",),
    "serve webhook create": ("lichtspiel serve webhook create https://example.org/videos --key ada",),
    "serve webhook list": ("lichtspiel serve webhook list",),
    "serve webhook remove": ("lichtspiel serve webhook remove wh_1f2e3d",),
    "serve jobs list": ("lichtspiel serve jobs list --limit 5",),
    "serve jobs show": ("lichtspiel serve jobs show video_1f2e3d",),
    "serve jobs cancel": ("lichtspiel serve jobs cancel video_1f2e3d",),
}
