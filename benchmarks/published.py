# SPDX-License-Identifier: Apache-2.0
"""The other side of the speed measurements: Multiresolution Textual Inversion as the paper's
authors published it, in today's PyTorch diffusers, and the same in PyTorch's best form.

As published, a step encodes the picture by the VAE, computes the gradient of the whole vocabulary
and updates it by AdamW; sampling encodes both prompts by the text encoder at every step. `best`
keeps the latents, takes the gradient of the new rows alone, encodes a sampling run's prompts once,
and uses channels_last, cuDNN's fastest algorithms and `torch.compile`. A side of `speed`.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from benchmarks.processes import Work, peak_memory, serve

BUCKETS = 10
GUIDANCE = 7.5


class Models:
    """The frozen modules, and ten new words in the vocabulary."""

    def __init__(self, work: Work) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = getattr(torch, work.dtype)

        def load(kind: Any, part: str) -> Any:
            return kind.from_pretrained(f"{work.folder}/{part}", torch_dtype=dtype).to(self.device)

        self.tokenizer = CLIPTokenizer.from_pretrained(f"{work.folder}/tokenizer")
        self.words = [f"<concept|{bucket}|>" for bucket in range(BUCKETS)]
        self.tokenizer.add_special_tokens({"additional_special_tokens": self.words})
        self.text, self.vae = load(CLIPTextModel, "text_encoder"), load(AutoencoderKL, "vae")
        self.unet = load(UNet2DConditionModel, "unet")
        self.text.resize_token_embeddings(max(len(self.tokenizer), self.text.config.vocab_size))
        for module in (self.text, self.vae, self.unet):
            module.requires_grad_(False)
        if work.best:
            torch.backends.cudnn.benchmark = True
            self.vae = self.vae.to(memory_format=torch.channels_last)
            self.unet = torch.compile(self.unet.to(memory_format=torch.channels_last))

    def ids(self, texts: list[str]) -> torch.Tensor:
        """Token ids [B, L]."""
        length = self.text.config.max_position_embeddings
        return self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids.to(self.device)

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def warmed_up(
    warm_up: Callable[[], None], measure: Callable[[], tuple[float, float]]
) -> Callable[[], tuple[float, float]]:
    """Measures after a batch that does not count, and leaves a GPU's memory to the others."""

    def run() -> tuple[float, float]:
        warm_up()
        measured = measure()
        torch.cuda.empty_cache()
        return measured

    return run


def new_rows(models: Models) -> torch.nn.Parameter:
    """The new words' rows alone, as a parameter that takes their place."""
    first = models.tokenizer.convert_tokens_to_ids(models.words[0])
    embedding = models.text.get_input_embeddings()
    rows = torch.nn.Parameter(embedding.weight[first : first + BUCKETS].float().clone())

    def replace(module: Any, given: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        index = given[0] - first
        new = rows[index.clamp(0, BUCKETS - 1)].to(out.dtype)
        return torch.where(((index >= 0) & (index < BUCKETS))[..., None], new, out)

    embedding.register_forward_hook(replace)
    return rows


def train(work: Work) -> Callable[[], tuple[float, float]]:
    """Returns a function that updates and returns wall and processor seconds of an update."""
    models = Models(work)
    schedule = DDPMScheduler.from_pretrained(f"{work.folder}/scheduler")
    if work.best:
        table = new_rows(models)
    else:
        table = models.text.get_input_embeddings().weight
        table.requires_grad_(True)
    new = models.tokenizer.convert_tokens_to_ids(models.words)
    optimizer = torch.optim.AdamW([table], lr=5e-4)
    pixels = torch.rand(work.batch_size, 3, work.size, work.size, device=models.device) * 2 - 1

    def encode() -> torch.Tensor:
        moments = models.vae.encode(pixels.to(models.vae.dtype)).latent_dist
        return moments.sample().detach() * models.vae.config.scaling_factor

    kept = encode() if work.best else None

    def update() -> None:
        times = torch.randint(0, 1000, (work.batch_size,))
        words = [models.words[int(t) * BUCKETS // 1000] for t in times]
        ids = models.ids([f"a photo of a {word}" for word in words])
        latents = encode() if kept is None else kept
        noise = torch.randn_like(latents)
        times = times.to(models.device)
        noisy = schedule.add_noise(latents, noise, times)
        prediction = models.unet(noisy, times, models.text(ids)[0]).sample
        F.mse_loss(prediction.float(), noise.float()).backward()
        if not work.best:
            others = torch.ones(len(table), dtype=torch.bool, device=models.device)
            others[new] = False
            assert table.grad is not None
            table.grad[others] = 0
        optimizer.step()
        optimizer.zero_grad()

    def measure() -> tuple[float, float]:
        models.synchronize()
        start = time.perf_counter(), time.process_time()
        for _ in range(work.steps):
            update()
        models.synchronize()
        wall, processor = time.perf_counter() - start[0], time.process_time() - start[1]
        return wall / work.steps, processor / work.steps

    if work.best:
        update()  # compiles
    return warmed_up(update, measure)


def sample(work: Work) -> Callable[[], tuple[float, float]]:
    """Returns a function that draws a batch and returns its wall and processor seconds."""
    models = Models(work)
    schedule = PNDMScheduler.from_pretrained(f"{work.folder}/scheduler", skip_prk_steps=True)
    factor = 2 ** (len(models.vae.config.block_out_channels) - 1)
    shape = (work.batch_size, 4, work.size // factor, work.size // factor)

    def encode(text: str) -> torch.Tensor:
        return models.text(models.ids([text] * work.batch_size))[0]

    @torch.no_grad()
    def draw(steps: int) -> None:
        schedule.set_timesteps(steps)
        latents = torch.randn(shape, device=models.device, dtype=models.vae.dtype)
        kept = torch.cat([encode(""), encode("a photo of a <concept|3|>")]) if work.best else None
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

    def measure() -> tuple[float, float]:
        models.synchronize()
        start = time.perf_counter(), time.process_time()
        draw(work.steps)
        models.synchronize()
        return time.perf_counter() - start[0], time.process_time() - start[1]

    if work.best:
        draw(2)  # compiles
    return warmed_up(lambda: draw(2), measure)


def held() -> int:
    """Peak memory of the GPU or, without one, of the process."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory()


def main(work: Work) -> None:
    """Prepares, then measures as often as it is asked to."""
    serve(train(work) if work.program == "train" else sample(work), held)


if __name__ == "__main__":
    main(tyro.cli(Work, description=__doc__))
