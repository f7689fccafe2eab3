"""`taste-min continue | say | score`: what the joint language model does with a recording or a text.

Importing this module does not import torch, because the command line reads its options.
"""

import json

from . import speech_command as speech
from .errors import TasteError

NAMES = ("mini-token", "mini-embedding")


def continue_(args) -> int:
    """Continue a recording in text and voice."""
    speech.check_audio_out(args)
    heard = speech.read(args.audio, args)
    taste, model = speech.load(args), _model(args.model)
    prompt = speech.encoded(taste, heard, args.text)
    made = model.continue_speech(prompt, _sampling(args), args.seed, args.with_prompt)
    speaker = args.speaker and speech.read(args.speaker, args)
    return speech.speak(args, taste, made, speaker, prompt=prompt.text, model=args.model)


def say(args) -> int:
    """Speak a written text with codes that the language model predicts from it."""
    from .taslm_speech import say

    speech.check_audio_out(args)
    if not args.text.split():
        raise TasteError("there are no words to say.")
    voice = speech.read(args.speaker, args)
    taste, model = speech.load(args), _model(args.model)
    made = say(model, args.text, speech.speaker_of(taste, voice), _sampling(args), args.seed)
    return speech.speak(args, taste, made, None, model=args.model)


def score(args) -> int:
    """How well the language model expects a recording, word by word; lower is better."""
    from .tokenizer import Taste

    heard = speech.read(args.audio, args)
    tokens = speech.encoded(Taste.from_pretrained(args.preset), heard, args.text)
    model = _model(args.model)
    result = model.score(tokens)
    measure = "code_nll" if model.config.head != "embedding" else "vector_error"
    rows = [{"word": w.text, measure: round(loss, 4)} for w, loss in zip(tokens.words, result.codes, strict=True)]
    text_nll = sum(result.text) / len(result.text)
    if args.json:
        report = {"text": tokens.text, "text_nll": text_nll, "loss": result.loss, "model": args.model, "words": rows}
        print(json.dumps(report, indent=2))
        return 0
    print(f"{'word':<20}{measure:>14}")
    for row in rows:
        print(f"{row['word']:<20}{row[measure]:>14.3f}")
    print(f"text: {text_nll:.3f} nats per token; loss: {result.loss:.3f}")
    return 0


def _model(name: str):
    from .taslm import Taslm

    return Taslm.from_pretrained(name)


def _sampling(args):
    from .joint_sampler import JointSampling

    return JointSampling(
        extra_words=getattr(args, "words", 8),
        top_p=args.top_p,
        temperature=args.temperature,
        taste_top_p=args.codes_top_p,
    )


def add_parsers(sub) -> None:
    """The three subcommands and their options."""
    p = sub.add_parser("continue", help=continue_.__doc__)
    p.add_argument("audio", help="a recording, 16 kHz mono (see --convert), or its file of tokens")
    p.add_argument("--text", help="the transcript; recognised when left out")
    p.add_argument("--words", type=int, default=8, help="words after which a sentence may end it (default: 8)")
    p.add_argument("--with-prompt", action="store_true", help="speak the prompt too")
    _add_sampling(p)
    speech.add_options(p, continue_)

    p = sub.add_parser("say", help=say.__doc__)
    p.add_argument("text", help="what to say")
    _add_sampling(p)
    speech.add_options(p, say, speaker_required=True)

    p = sub.add_parser("score", help=score.__doc__)
    p.add_argument("audio", help="a recording, 16 kHz mono (see --convert), or its file of tokens")
    p.add_argument("--text", help="the transcript; recognised when left out")
    p.add_argument("--model", default=NAMES[0], help=f"{', '.join(NAMES)}, a file or an original checkpoint")
    p.add_argument("--preset", default="mini", help="which tokenizer: mini, or a folder of exported parts")
    p.add_argument("--convert", action="store_true", help="average channels and resample a higher rate to 16 kHz")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=score)


def _add_sampling(p) -> None:
    p.add_argument("--model", default=NAMES[0], help=f"{', '.join(NAMES)}, a file or an original checkpoint")
    p.add_argument("--top-p", type=float, default=0.9, help="of text tokens; 0 takes the best (default: 0.9)")
    p.add_argument("--temperature", type=float, default=1.0, help="of text tokens (default: 1)")
    p.add_argument("--codes-top-p", type=float, default=0.0, help="of codes; 0 takes the best (default: 0)")
