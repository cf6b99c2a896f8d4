"""Libraries that write and read through the filesystem for fsspec."""

from __future__ import annotations

import gc

import dask.array
import dask.dataframe
import fsspec
import numpy
import pandas
import pyarrow
import pyarrow.dataset
import pytest
import zarr
from zarr.storage import FsspecStore, MemoryStore

from objrepo.sync import open_repository

# dask calls methods of pandas with arguments that newer releases deprecate.
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")

TABLE = pandas.DataFrame({"name": [f"photo {number}" for number in range(1000)], "size": range(1000)})
ARRAY = numpy.arange(10_000).reshape(100, 100)


@pytest.fixture
def options(folder):
    open_repository(folder).initialise()
    return {"repository": str(folder)}


@pytest.fixture
def files(options):
    return fsspec.filesystem("objrepo", **options)


class TestPandas:
    @pytest.mark.parametrize("name", ["table.parquet", "table.csv", "table.csv.gz", "table.csv.zip", "table.json"])
    def test_formats(self, files, options, name):
        write, read = {
            "parquet": (TABLE.to_parquet, pandas.read_parquet),
            "csv": (lambda *args, **kwargs: TABLE.to_csv(*args, index=False, **kwargs), pandas.read_csv),
            "json": (TABLE.to_json, pandas.read_json),
        }[name.split(".")[1]]
        write(f"objrepo://new/{name}", storage_options=options)
        assert read(f"objrepo://new/{name}", storage_options=options).equals(TABLE)
        assert read(f"objrepo://{files.snapshot()}/{name}", storage_options=options).equals(TABLE)
        if name in ("table.csv", "table.parquet"):  # names without a suffix say nothing of a compression
            assert read(f"objrepo://{files.ukey(f'new/{name}')}", storage_options=options).equals(TABLE)

    def test_partitions(self, files, options):
        TABLE.assign(part=TABLE["size"] % 3).to_parquet(
            "objrepo://new/parts", storage_options=options, partition_cols=["part"]
        )
        assert len(files.find("new/parts")) == 3
        read = pandas.read_parquet(f"objrepo://{files.snapshot('new/parts')}", storage_options=options)
        assert sorted(read["size"]) == list(range(1000))

    @pytest.mark.usefixtures("frozen_heap")
    def test_a_table_that_cannot_be_written_is_not_stored(self, files, options):
        class Bad:
            def __str__(self):
                raise ValueError("bad")

        table = pandas.DataFrame({"name": ["a" * 100_000, Bad()]})
        for write in (table.to_csv, table.to_parquet):
            with pytest.raises(Exception, match=r"bad|Bad"):
                write("objrepo://new/table", storage_options=options)
        gc.collect()
        assert files.find("new") == files.ls("") == []

    def test_appending_is_refused(self, options):
        with pytest.raises(OSError, match="mode 'ab' is not supported"):
            TABLE.to_csv("objrepo://new/table.csv", mode="a", storage_options=options)


class TestPyarrow:
    SCHEMA = pyarrow.schema({"name": pyarrow.string(), "size": pyarrow.int64(), "part": pyarrow.int64()})

    def test_a_dataset(self, files):
        table = pyarrow.Table.from_pandas(TABLE.assign(part=TABLE["size"] % 3), schema=self.SCHEMA)
        pyarrow.dataset.write_dataset(
            table, "new/data", filesystem=files, format="parquet", partitioning=["part"], max_rows_per_file=100,
            max_rows_per_group=100,
        )  # fmt: skip
        key = files.snapshot("new/data")
        assert len(files.find(key)) == 12
        read = pyarrow.dataset.dataset(key, filesystem=files, partitioning=["part"], format="parquet")
        assert read.to_table(filter=pyarrow.dataset.field("part") == 1).num_rows == 333
        assert read.to_table().sort_by("size").select(["name", "size"]).equals(table.select(["name", "size"]))

    @pytest.mark.usefixtures("frozen_heap")
    def test_a_dataset_whose_source_fails_is_not_stored(self, files):
        def batches():
            yield pyarrow.RecordBatch.from_pandas(TABLE, schema=self.SCHEMA.remove(2), preserve_index=False)
            raise LookupError("no more")

        with pytest.raises(LookupError):
            pyarrow.dataset.write_dataset(
                batches(), "new/data", schema=self.SCHEMA.remove(2), filesystem=files, format="parquet"
            )
        gc.collect()
        assert files.find("new") == files.ls("") == []


class TestDask:
    def test_a_table_of_parts(self, files, options):
        table = dask.dataframe.from_pandas(TABLE, npartitions=4)
        for _ in range(2):
            table.to_parquet("objrepo://new/table", storage_options=options, overwrite=True)
        key = files.snapshot("new/table")
        assert files.ls(key, detail=False) == [f"{key}/part.{number}.parquet" for number in range(4)]
        read = dask.dataframe.read_parquet(f"objrepo://{key}", storage_options=options)
        assert read["size"].sum().compute() == sum(range(1000))
        part = pandas.read_parquet(f"objrepo://{key}/part.1.parquet", storage_options=options)
        assert list(part["name"]) == list(TABLE["name"][250:500])

    def test_lines(self, files, options):
        dask.dataframe.from_pandas(TABLE, npartitions=4).to_csv("objrepo://new/*.csv", storage_options=options)
        read = dask.dataframe.read_csv(f"objrepo://{files.snapshot()}/*.csv", storage_options=options, blocksize=1000)
        assert read["size"].sum().compute() == sum(range(1000))

    def test_what_is_written_again_is_read_again(self, options):
        for number in (1, 2):
            pandas.DataFrame({"a": [number]}).to_parquet("objrepo://new/table", storage_options=options)
            read = dask.dataframe.read_parquet("objrepo://new/table", storage_options=options)
            assert read["a"].sum().compute() == number

    def test_an_array(self, files, options):
        dask.array.from_array(ARRAY, chunks=30).to_zarr("objrepo://new/array", storage_options=options)
        read = dask.array.from_zarr(f"objrepo://{files.snapshot('new/array')}", storage_options=options)
        assert (read.compute() == ARRAY).all()


class TestZarr:
    def test_a_group(self, files, options):
        for _ in range(2):
            group = zarr.open_group("objrepo://new/group", mode="w", storage_options=options)
            group.attrs["title"] = "photos"
            group.create_array("a", data=ARRAY, chunks=(30, 30))
        first = files.snapshot("new/group")
        array = zarr.open_array("objrepo://new/group/a", mode="r+", storage_options=options)
        array[20:40, 20:40] = -1
        read = zarr.open_group(f"objrepo://{first}", mode="r", storage_options=options)
        assert (read.attrs["title"], list(read.array_keys())) == ("photos", ["a"])
        assert (read["a"][:] == ARRAY).all(), "a snapshot stays as it is"
        second = zarr.open_array(f"objrepo://{files.snapshot('new/group')}/a", mode="r", storage_options=options)
        assert (second[20:40, 20:40] == -1).all()
        assert (second[40:] == ARRAY[40:]).all()
        with pytest.raises(OSError, match="read-only"):
            zarr.open_array(f"objrepo://{first}/a", mode="r+", storage_options=options)[0] = 1

    def test_a_transaction(self, files, options):
        with files.transaction:
            array = zarr.create_array(
                FsspecStore.from_mapper(files.get_mapper("objrepo://new/a")),
                shape=(100, 100),
                chunks=(30, 30),
                dtype=int,
            )
            for row in range(100):
                array[row] = ARRAY[row]  # each chunk is read and written 30 times
            key = files.snapshot("new/a")
        assert (zarr.open_array(f"objrepo://{key}", mode="r", storage_options=options)[:] == ARRAY).all()

    def test_references(self, options):
        """The chunks of an array are objects; references say which is which."""
        made = MemoryStore()
        zarr.create_array(made, data=ARRAY, chunks=(30, 30))
        chunks = {name: buffer.to_bytes() for name, buffer in made._store_dict.items()}
        keys = open_repository(options["repository"]).put_many(chunks.values())
        references = {name: [f"objrepo://{key}"] for name, key in zip(chunks, keys, strict=True)}
        store = FsspecStore.from_url(
            "reference://",
            storage_options={"fo": references, "remote_protocol": "objrepo", "remote_options": options},
            read_only=True,
        )
        assert (zarr.open_array(store, mode="r")[:] == ARRAY).all()
