"""`python -m transforms.fullgrad.tensorflow.native` fills the cache of compiled code, as an image for workers does."""

import sys

from transforms import code_cache
from transforms.fullgrad.tensorflow.native import c_api, graph, objects

if not c_api.available():
    sys.exit("this TensorFlow takes no native operations, so there is nothing to compile")
graph.compile_all()
if not objects.all_kept():
    sys.exit(f"compiled code cannot be kept in {code_cache.places()}; FULLGRAD_CACHE may name a folder of your own")
print(f"{len(objects.compiled_names)} functions compiled, all kept in {code_cache.places()}")
