"""What each keyword of a function is. A test compares the names with those of the structs.

H query heads, Hkv key heads, dk features of q and k, dv of v and o. `dtype` is that of the case: bf16, fp16 or fp32.
Outputs have it too, or float32 where the kernel declares fp32_out. "Written" is what the function has to write.
"""

from __future__ import annotations

EVERYWHERE = {
    "num_sequences": "how many sequences the call has; some may be empty",
    "q_offsets": "[num_sequences + 1] int64: sequence s has the query tokens q_offsets[s] .. q_offsets[s + 1] - 1",
    "k_offsets": "[num_sequences + 1] int64: sequence s has the key tokens k_offsets[s] .. k_offsets[s + 1] - 1",
    "scale": "softmax scale: any finite number of fp32, also 0 and below",
    "causal": "bool: a query sees the keys up to its position; the last query stands at the last key",
    "block": "tokens in a key block; the last block of a sequence may be short",
    "top_k": "blocks per query, its own included",
    "gate": "which past blocks a query attends to: 'top_k' by score, 'window' the latest, 'sink' the first and the "
            "latest",
    "window_size": "keys of the window, the query's own included",
    "row_offsets": "[num_sequences + 1] int64: sequence s has the compressed rows row_offsets[s] .. "
                   "row_offsets[s + 1] - 1",
    "compress_block": "tokens of a compression block l",
    "compress_stride": "tokens from the start of one compression block to the start of the next",
    "top_n": "blocks per query, forced ones included",
    "initial_blocks": "forced: the first blocks of the sequence",
    "local_blocks": "forced: the query's own block and those before it",
    "phi_kind": "how a compression block becomes a row: 'mean', 'linear' or 'mlp'",
    "activation": "of the mlp: 'relu', 'silu' or 'gelu'",
    "qi": "[query tokens, index heads, dk] dtype: queries of the indexer",
    "ki": "[key tokens, 1, dk] dtype: keys of the indexer",
    "q": "[query tokens, H, dk] dtype: queries",
    "k": "[key tokens, Hkv, dk] dtype: keys",
    "v": "[key tokens, Hkv, dv] dtype: values",
    "o": "written: [query tokens, H, dv]: the output; 0 for a query that sees no key",
    "lse": "written: [query tokens, H, 1] float32: log-sum-exp of the scaled scores, natural; -infinity without keys",
    "selection": "written: [query tokens, H, slots] int32: the blocks that each query attends to, -1 in unused slots",
    "d_o": "given: [query tokens, H, dv] dtype: the gradient of o",
    "dq": "written: as q: its gradient",
    "dk": "written: as k: its gradient, summed over the query heads of a group",
    "dv": "written: as v: its gradient, summed over the query heads of a group",
}

OF_OPERATOR: dict[str, dict[str, str]] = {
    "selected": {
        "selection": "given: [query tokens, H or Hkv, slots] int32: blocks; -1 and blocks of the future add nothing",
    },
    "moba_select": {"scale": "is not read"},
    "moba": {
        "selection": "written: [query tokens, H, slots] int32: the blocks that each query attends to, -1 in unused "
                     "slots, unless exports_selection is False; read by the backward",
    },
    "nsa_compress": {
        "q_offsets": "not to be read: there are no queries",
        "block": "is not read",
        "top_n": "is not read",
        "initial_blocks": "is not read",
        "local_blocks": "is not read",
        "window_size": "is not read",
        "tokens": "[key tokens, Hkv, f] dtype: what is compressed",
        "phi": "namespace: the parameters of phi",
        "rows": "written: [compressed rows, Hkv, f] dtype; row i of a sequence is made of its tokens "
                "i compress_stride .. i compress_stride + compress_block - 1",
        "d_rows": "given: [compressed rows, Hkv, f] dtype: the gradient of rows",
        "d_tokens": "written: as tokens: their gradient",
        "d_phi": "namespace, written: the gradients of phi",
    },
    "nsa_compressed": {
        "window_size": "is not read",
        "phi_kind": "is not read",
        "activation": "is not read",
        "k": "[compressed rows, Hkv, dk] dtype: a query sees the rows whose tokens all stand at its position or before",
        "v": "[compressed rows, Hkv, dv] dtype",
        "selection": "written: [query tokens, Hkv, slots] int32: the most important blocks of tokens; None in the "
                     "backward",
    },
    "nsa": {
        "compressed": "namespace: the branch of compressed rows; k and v are the tokens that they are made of",
        "selected": "namespace: the branch of selected blocks",
        "window": "namespace: the branch of the sliding window",
        "gates": "[query tokens, H, 3] dtype, after the sigmoid: of the compressed, selected and window branch",
        "phi_k": "namespace: the parameters of phi for keys",
        "phi_v": "namespace: the parameters of phi for values",
        "k_compressed": "written: [compressed rows, Hkv, dk] dtype",
        "v_compressed": "written: [compressed rows, Hkv, dv] dtype",
        "selection": "written: [query tokens, Hkv, slots] int32: the blocks that each group attends to, -1 in unused "
                     "slots",
        "o": "written: [query tokens, H, dv]: the sum of the gated branches; None in the backward",
        "dq": "written: as q: its gradient, summed over the branches",
        "d_compressed": "namespace, written: gradients of the tokens that the compressed rows are made of",
        "d_selected": "namespace, written: gradients of the selected branch",
        "d_window": "namespace, written: gradients of the window branch",
        "d_gates": "written: as gates: their gradient",
        "dk_compressed": "written: as k_compressed: its gradient",
        "dv_compressed": "written: as v_compressed: its gradient",
        "d_phi_k": "namespace, written: the gradients of phi_k",
        "d_phi_v": "namespace, written: the gradients of phi_v",
    },
    "msa_select": {
        "scale": "is not read",
        "selection": "written: [query tokens, index heads, slots] int32: blocks, -1 in unused slots",
    },
    "dsa_select": {
        "scale": "is not read",
        "top_k": "tokens per query",
        "w": "[query tokens, 1, index heads] float32: weights of the index heads, of any sign",
        "selection": "written: [query tokens, 1, slots] int32: tokens, for all heads; -1 in unused slots",
    },
    "qsa_select": {
        "scale": "is not read",
        "block": "tokens in a block; there is a row of kbar for each complete one",
        "top_k": "complete blocks per query; an incomplete own block is beside them",
        "kbar": "[complete blocks, 1, dk] dtype: keys of the indexer; a sequence has tokens // block of them",
        "selection": "written: [query tokens, 1, slots] int32: blocks, for all heads; -1 in unused slots",
    },
}

PHI = {
    "position": "[l, sets, f], linear and mlp: added to the tokens of a block; sets is Hkv, or 1 for all heads",
    "w": "[l f, sets, f], linear: row s f + i reads feature i of token s",
    "w1": "[l f, sets, hidden], mlp: rows as of w",
    "b1": "[1, sets, hidden], mlp",
    "w2": "[hidden, sets, f], mlp",
    "b2": "[1, sets, f], mlp",
}
BRANCH = {
    "k": "[key tokens, Hkv, dk] dtype: keys of the branch; branches may share them",
    "v": "[key tokens, Hkv, dv] dtype: values of the branch",
    "o": "written: [query tokens, H, dv]: what the branch gives before its gate",
    "lse": "written: [query tokens, H, 1] float32",
}
BRANCH_GRADIENTS = {
    "dk": "written: gradient of the branch's own k, also where branches share theirs",
    "dv": "written: gradient of the branch's own v",
}
PARTS = {  # of namespaces
    **{name: PHI for name in ("phi", "phi_k", "phi_v", "d_phi", "d_phi_k", "d_phi_v")},
    **{name: BRANCH for name in ("compressed", "selected", "window")},
    **{name: BRANCH_GRADIENTS for name in ("d_compressed", "d_selected", "d_window")},
}
