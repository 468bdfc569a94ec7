"""What whole engines and whole runs say of a card: engine and sync, kill and resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alignkit.run.check.row import Row
from benchmarks.gpu.sizes import Sizes

ROOT = Path(__file__).parents[2]
STEPS, EVERY = 8, 2
DETERMINISTIC = ("deterministic=true",)  # which promises equal bits, on CUDA too


def engine(sizes: Sizes, device: str) -> list[Row]:
    """vLLM's start, a first call, and one weight sync with read-back and canary."""
    from alignkit.run.check.distance import random_model
    from alignkit.run.check.trial import engine_rows, start_vllm

    return engine_rows(random_model(device), device, start_vllm)


def adapter(sizes: Sizes, device: str) -> list[Row]:
    """vLLM with an adapter apart from its base: a sync of both, one of the adapter alone, each proven, with canary."""
    import torch
    from peft import LoraConfig, get_peft_model

    from alignkit.engines.vllm.arguments import Settings
    from alignkit.engines.vllm.engine import VllmEngine
    from alignkit.models.adapter_matrices import adapter_shapes
    from alignkit.models.forward import Forward
    from alignkit.parallel.group import Group
    from alignkit.parallel.single import SingleTrainer
    from alignkit.recipe.schema import Optimizer
    from alignkit.run.check.distance import CONTEXT, random_model
    from alignkit.run.check.trial import CANARY
    from alignkit.train.sync import Sync

    base: Any = random_model(device)
    layers = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as place:
        base.save_pretrained(place)
        model: Any = get_peft_model(base, layers)
        engine = VllmEngine(
            Path(place),
            dtype="bfloat16",
            max_model_len=CONTEXT,
            log_file=Path(place, "log"),
            adapter=adapter_shapes(model),
            memory_gib=1,
            settings=Settings(memory_fraction=0.3, lends=torch.cuda.is_available()),
        )
        try:
            probe = [[(7 * i + j) % 1000 for j in range(40)] for i in range(4)]
            sync = Sync(engine=engine, group=Group(), probe=probe, tolerance=CANARY, apart=True)
            trainer, forward = SingleTrainer(model, Optimizer(lr=1e-6)), Forward(model=model, dtype=torch.bfloat16)
            rows = []
            for version, what in enumerate(("base and adapter", "adapter alone"), start=1):
                for name, parameter in model.named_parameters():
                    if "lora_B" in name:
                        torch.nn.init.normal_(parameter, std=0.02)
                begun = time.perf_counter()
                gap = float(sync(version, trainer, forward)["sync/canary_gap"])
                seconds = time.perf_counter() - begun
                told = f"{seconds:.2f} s, canary {gap:.1e} nats of {CANARY}"
                rows.append(Row(name=f"sync of {what}", value=told, numbers={"seconds": seconds, "canary": gap}))
            return rows
        finally:
            engine.close()


def resume(sizes: Sizes, device: str) -> list[Row]:
    """A run that is killed after a checkpoint and resumed, against one that never stopped."""
    from tests.resume.runs import fingerprint, write_recipe

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        recipe = write_recipe(folder, steps=STEPS, every=EVERY)
        straight, broken = folder / "straight", folder / "broken"
        _finish(_train(recipe, straight, device))
        _kill_at_checkpoint(_train(recipe, broken, device), broken)
        _finish(_train(recipe, broken, device, "--resume"))
        return [compared(fingerprint(straight), fingerprint(broken))]


def compared(straight: dict[str, object], broken: dict[str, object]) -> Row:
    """Equal or not, and what differs."""
    apart = [name for name in straight if straight[name] != broken[name]]
    same = "weights, metrics and prompts are the same bits"
    return Row(
        name="killed and resumed against never stopped",
        value=f"differ: {', '.join(apart)}" if apart else same,
        level="wrong" if apart else "ok",
        numbers={"differ": len(apart)},
    )


def _train(recipe: Path, run: Path, device: str, *arguments: str) -> subprocess.Popen[Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-m", "alignkit", "train", str(recipe), f"run={run}", *DETERMINISTIC, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _finish(process: subprocess.Popen[Any]) -> None:
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"alignkit train ended with {process.returncode}: {output.strip().splitlines()[-1:]}")


def _kill_at_checkpoint(process: subprocess.Popen[Any], run: Path) -> None:
    """kill -9 once a checkpoint is whole; raises RuntimeError when the run ends before."""
    while not any((run / "checkpoints").glob("step-*")):
        if process.poll() is not None:
            raise RuntimeError("the run ended before its first checkpoint")
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
