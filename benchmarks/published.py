# SPDX-License-Identifier: Apache-2.0
"""The other side of the speed measurements: Multiresolution Textual Inversion as the paper's
authors published it, in today's PyTorch diffusers, and the same in PyTorch's best form.

As published, a step encodes the picture by the VAE, computes the gradient of the whole vocabulary
and updates it by AdamW; sampling encodes both prompts by the text encoder at every step. `best`
keeps the latents, takes the gradient of the new rows alone, uses channels_last and `torch.compile`,
and encodes the prompts once. Started as a process by `train_speed` and `sample_speed`; prints JSON.
"""

import json
import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
import tyro
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from benchmarks.processes import peak_memory

BUCKETS = 10
GUIDANCE = 7.5


@dataclass(frozen=True, kw_only=True)
class Flags:
    folder: str
    """A diffusers folder."""
    program: Literal["train", "sample"]
    size: int
    """Height and width in pixels."""
    batch_size: int
    steps: int
    """Updates, or sampling steps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    best: bool = False


class Models:
    """The frozen modules, and ten new words in the vocabulary."""

    def __init__(self, flags: Flags) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = getattr(torch, flags.dtype)

        def load(kind: Any, part: str) -> Any:
            return kind.from_pretrained(f"{flags.folder}/{part}", torch_dtype=dtype).to(self.device)

        self.tokenizer = CLIPTokenizer.from_pretrained(f"{flags.folder}/tokenizer")
        self.words = [f"<concept|{bucket}|>" for bucket in range(BUCKETS)]
        self.tokenizer.add_special_tokens({"additional_special_tokens": self.words})
        self.text, self.vae = load(CLIPTextModel, "text_encoder"), load(AutoencoderKL, "vae")
        self.unet = load(UNet2DConditionModel, "unet")
        self.text.resize_token_embeddings(max(len(self.tokenizer), self.text.config.vocab_size))
        for module in (self.text, self.vae, self.unet):
            module.requires_grad_(False)
        if flags.best:
            self.unet = self.unet.to(memory_format=torch.channels_last)
            self.unet = torch.compile(self.unet)

    def ids(self, texts: list[str]) -> torch.Tensor:
        """Token ids [B, L]."""
        length = self.text.config.max_position_embeddings
        return self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids.to(self.device)

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def train(flags: Flags) -> list[tuple[float, float]]:
    """Wall and processor seconds of each update but the first."""
    models = Models(flags)
    schedule = DDPMScheduler.from_pretrained(f"{flags.folder}/scheduler")
    table = models.text.get_input_embeddings().weight
    table.requires_grad_(True)
    new = models.tokenizer.convert_tokens_to_ids(models.words)
    optimizer = torch.optim.AdamW([table], lr=5e-4)
    pixels = torch.rand(flags.batch_size, 3, flags.size, flags.size, device=models.device) * 2 - 1

    def encode() -> torch.Tensor:
        moments = models.vae.encode(pixels.to(models.vae.dtype)).latent_dist
        return moments.sample().detach() * models.vae.config.scaling_factor

    kept = encode() if flags.best else None
    seconds = []
    for _ in range(flags.steps + 1):
        models.synchronize()
        start = time.perf_counter(), time.process_time()
        times = torch.randint(0, 1000, (flags.batch_size,))
        words = [models.words[int(t) * BUCKETS // 1000] for t in times]
        ids = models.ids([f"a photo of a {word}" for word in words])
        latents = encode() if kept is None else kept
        noise = torch.randn_like(latents)
        times = times.to(models.device)
        noisy = schedule.add_noise(latents, noise, times)
        prediction = models.unet(noisy, times, models.text(ids)[0]).sample
        F.mse_loss(prediction.float(), noise.float()).backward()
        others = torch.ones(len(table), dtype=torch.bool, device=models.device)
        others[new] = False
        table.grad[others] = 0  # type: ignore[index]
        optimizer.step()
        optimizer.zero_grad()
        models.synchronize()
        seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return seconds[1:]


@torch.no_grad()
def sample(flags: Flags) -> list[tuple[float, float]]:
    """Wall and processor seconds of a batch of pictures."""
    models = Models(flags)
    schedule = PNDMScheduler.from_pretrained(f"{flags.folder}/scheduler", skip_prk_steps=True)
    factor = 2 ** (len(models.vae.config.block_out_channels) - 1)
    shape = (flags.batch_size, 4, flags.size // factor, flags.size // factor)

    def encode(text: str) -> torch.Tensor:
        return models.text(models.ids([text] * flags.batch_size))[0]

    def draw() -> None:
        schedule.set_timesteps(flags.steps)
        latents = torch.randn(shape, device=models.device, dtype=models.vae.dtype)
        kept = torch.cat([encode(""), encode("a photo of a <concept|3|>")]) if flags.best else None
        for t in schedule.timesteps:
            if kept is None:
                context = torch.cat([encode(""), encode("a photo of a <concept|3|>")])
            else:
                context = kept
            both = models.unet(torch.cat([latents] * 2), t, context).sample
            without, prompted = both.chunk(2)
            prediction = without + GUIDANCE * (prompted - without)
            latents = schedule.step(prediction, t, latents).prev_sample
        models.vae.decode(latents / models.vae.config.scaling_factor)

    if models.device == "cuda":
        draw()
    models.synchronize()
    start = time.perf_counter(), time.process_time()
    draw()
    models.synchronize()
    return [(time.perf_counter() - start[0], time.process_time() - start[1])]


if __name__ == "__main__":
    flags = tyro.cli(Flags)
    seconds = train(flags) if flags.program == "train" else sample(flags)
    print(json.dumps({"seconds": seconds, "memory": peak_memory()}))
