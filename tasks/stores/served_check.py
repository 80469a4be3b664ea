"""Load a registered model as a server does and predict: run by path, alone, in a bare interpreter.

Arguments: the model's folder, an Arrow file of rows, where to put the scores (.npy), the package folders (JSON).
"""

import json
import sys


def main() -> None:
    folder, asked, answer, packages = sys.argv[1:]
    sys.path.extend(json.loads(packages))
    import mlflow.pyfunc
    import numpy as np
    import pyarrow as pa

    with pa.memory_map(asked) as file:
        rows = pa.ipc.open_file(file).read_all()
    np.save(answer, mlflow.pyfunc.load_model(folder).predict(rows))


if __name__ == "__main__":
    main()
