"""Takes batches of the unit decoder apart, for its tests."""


def prompt(batch: dict) -> dict:
    return {key: value for key, value in batch.items() if "unit" not in key and key != "pointer"}


def row(batch: dict, i: int) -> dict:
    """Sample i alone, without its padding."""
    n, u = batch["text_lengths"][i], batch["unit_lengths"][i]
    alone = {key: value[i : i + 1] for key, value in batch.items()}
    alone["text_ids"], alone["units"] = alone["text_ids"][:, :n], alone["units"][:, :u]
    if "pointer" in alone:
        alone["pointer"] = alone["pointer"][:, :u]
    alone["taste_embeddings"] = alone["taste_embeddings"][:, :n]
    return alone
