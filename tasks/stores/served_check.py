"""Load a registered model as a server does and predict: run by path, alone, in a bare interpreter.

Arguments: the model's folder, an Arrow file of rows, where to put the scores (.npy), the package folders (JSON).
The last line that it prints says how long the load and the first prediction took.
"""

import itertools
import json
import sys
import time


def main() -> None:
    folder, asked, answer, packages = sys.argv[1:]
    sys.path.extend(json.loads(packages))
    import mlflow.pyfunc
    import numpy as np
    import pyarrow as pa

    with pa.memory_map(asked) as file:
        rows = pa.ipc.open_file(file).read_all()
    moments = [time.perf_counter()]
    model = mlflow.pyfunc.load_model(folder)
    moments.append(time.perf_counter())
    model.predict(rows.slice(0, 1))
    moments.append(time.perf_counter())
    np.save(answer, model.predict(rows))
    load, first = (later - earlier for earlier, later in itertools.pairwise(moments))
    print(json.dumps({"load_seconds": f"{load:.3g}", "first_prediction_ms": f"{first * 1_000:.3g}"}))


if __name__ == "__main__":
    main()
