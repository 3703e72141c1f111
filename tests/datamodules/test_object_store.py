"""Streaming from an object store, against a local server that speaks S3 (moto)."""

import json
import uuid
from pathlib import Path

import pytest
import torch

from jetlit.datamodules import Corpus, TokenDataModule
from jetlit.errors import UserError
from tests.datamodules.conftest import BLOCK

pytest.importorskip(
    "moto", reason="moto, a local server that speaks S3, is not installed: pip install 'moto[s3]' flask flask-cors"
)
BUCKET = f"corpora-{uuid.uuid4().hex}"


@pytest.fixture
def bucket(corpora, tmp_path, monkeypatch):
    """Put the corpora into a bucket of a local server; give a function from a corpus' name to its s3:// path."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr("litdata.utilities.dataset_utilities._LITDATA_CACHE_DIR", str(tmp_path / "cache"))
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for name, folder in corpora.items():
        for file in Path(folder).rglob("*"):
            if file.is_file():
                client.upload_file(str(file), BUCKET, f"{name}/{file.relative_to(folder)}")
    yield lambda name: f"s3://{BUCKET}/{name}"
    server.stop()


@pytest.mark.parametrize("workers", [2, 0])  # forks of a process that has used obstore read by boto3
def test_an_object_store_gives_the_batches_of_a_local_folder(corpora, bucket, workers):
    def batches(data):
        data.setup()
        train = [batch["input_ids"] for batch in data.train_dataloader()]
        return torch.cat(train), torch.cat([batch["input_ids"] for batch in data.val_dataloader()])

    def data(large, small):
        return TokenDataModule([Corpus(large, 0.6), Corpus(small, 0.4)], BLOCK, 4, num_workers=workers, val_batches=2)

    remote = batches(data(bucket("large"), bucket("small")))
    local = batches(data(corpora["large"], corpora["small"]))
    assert all(torch.equal(far, near) for far, near in zip(remote, local, strict=True))


def test_a_position_in_an_object_store_can_be_resumed(bucket):
    def loader():
        return TokenDataModule(
            [Corpus(bucket("large"), 0.6), Corpus(bucket("small"), 0.4)], BLOCK, 4
        ).train_dataloader()

    first = loader()
    batches = iter(first)
    for _ in range(3):
        next(batches)
    state = first.state_dict()
    expected = [batch["input_ids"] for batch in batches]
    resumed = loader()
    resumed.load_state_dict(state)
    found = [batch["input_ids"] for batch in resumed]
    assert len(found) == len(expected) > 3 and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_corpus_that_is_not_there_is_one_sentence(bucket):
    with pytest.raises(UserError, match="s3://.*/none/corpus.json could not be read"):
        TokenDataModule(bucket("none"), BLOCK, 4).setup()


def test_a_damaged_object_is_noticed(corpora, bucket):
    import boto3

    for chunk in (Path(corpora["small"]) / "train").glob("*.bin"):
        content = bytearray(chunk.read_bytes())
        content[-1] ^= 1
        boto3.client("s3").put_object(Bucket=BUCKET, Key=f"small/train/{chunk.name}", Body=bytes(content))
    with pytest.raises(UserError, match="is damaged .its checksum differs"):
        list(TokenDataModule(bucket("small"), BLOCK, 4).train_dataloader())


@pytest.mark.parametrize("name", ["../../../stolen.bin", "/tmp/stolen.bin"])
def test_an_index_that_leads_out_of_the_cache_is_refused(bucket, tmp_path, name):
    import boto3

    path, client = bucket("small"), boto3.client("s3")
    index = json.loads(client.get_object(Bucket=BUCKET, Key="small/train/index.json")["Body"].read())
    client.put_object(Bucket=BUCKET, Key="small/train/stolen.bin", Body=b"x")
    index["chunks"][0]["filename"] = name
    index["updated_at"] = uuid.uuid4().hex  # which litdata keeps its cache by
    client.put_object(Bucket=BUCKET, Key="small/train/index.json", Body=json.dumps(index).encode())
    with pytest.raises(UserError, match=f"names the file '{name}', which no corpus holds"):
        next(iter(TokenDataModule(path, BLOCK, 2).train_dataloader()))
    assert not list(tmp_path.rglob("stolen.bin")) and not Path("/tmp/stolen.bin").exists()
