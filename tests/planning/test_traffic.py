# SPDX-License-Identifier: Apache-2.0
"""Bytes to and from a chip's memory, read from the text of a compiled program."""

from mrti_jax.planning.traffic import memory_traffic

# A weight comes into on-chip memory, S(1), in two slices and is used there, in each turn of a loop.
PROGRAM = """HloModule jit_step, is_scheduled=true

%fused (x: bf16[64,64]) -> bf16[64,64] {
  %x = bf16[64,64]{1,0} parameter(0)
  ROOT %y = bf16[64,64]{1,0} negate(%x)
}

%body (state: (bf16[64,64], f32[8])) -> (bf16[64,64], f32[8]) {
  %state = (bf16[64,64]{1,0}, f32[8]{0}) parameter(0)
  %w = bf16[64,64]{1,0} get-tuple-element(%state), index=0
  %a = ((bf16[64,64]{1,0}), bf16[32,64]{1,0:S(1)}, u32[]{:S(2)}) slice-start(%w), slice={[0:32]}
  %b = ((bf16[64,64]{1,0}), bf16[32,64]{1,0:S(1)}, u32[]{:S(2)}) slice-start(%w), slice={[32:64]}
  %c = bf16[32,64]{1,0:S(1)} slice-done(%a)
  %d = bf16[32,64]{1,0:S(1)} slice-done(%b)
  %whole = bf16[64,64]{1,0:S(1)} custom-call(%c, %d), custom_call_target="ConcatBitcast"
  %used = bf16[64,64]{1,0} fusion(%whole), kind=kLoop, calls=%fused
  ROOT %next = (bf16[64,64]{1,0}, f32[8]{0}) tuple(%used, %state)
}

%none (x: f32[8]) -> f32[8] {
  ROOT %x.2 = f32[8]{0} parameter(0)
}

%more (x: f32[8]) -> f32[8] {
  %x.3 = f32[8]{0} parameter(0)
  ROOT %negative = f32[8]{0} negate(%x.3)
}

ENTRY %main.7 (w: bf16[64,64], x: f32[8]) -> (bf16[64,64], f32[8]) {
  %w.1 = bf16[64,64]{1,0:T(8,128)(2,1)} parameter(0)
  %x.1 = f32[8]{0} parameter(1)
  %sum = f32[8]{0:T(128)} add(%x.1, %x.1)
  %chosen = f32[8]{0} conditional(%i, %x.1, %x.1), branch_computations={%none, %more}, metadata={}
  %start = (bf16[64,64]{1,0}, /*index=1*/f32[8]{0}) tuple(%w.1, %sum)
  ROOT %loop = (bf16[64,64]{1,0}, f32[8]{0}) while(%start), condition=%ends, body=%body, metadata={}
}
"""


def test_only_what_passes_between_a_chip_and_its_memory_counts() -> None:
    weight, vector = 2 * 64 * 64, 4 * 8
    added, negated = 3 * vector, 2 * vector
    assert memory_traffic(PROGRAM) == added + negated + weight + weight  # once read, once written
