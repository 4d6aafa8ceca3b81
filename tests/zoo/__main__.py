"""List the zoo: name, suite, family, parameters at each scale."""

from tests.zoo import SCALES, entries

for item in entries():
    sizes = [sum(p.numel() for p in item.build(scale).model.parameters()) for scale in SCALES]
    print(f"{item.name:24} {item.suite:8} {item.family:24}", *(f"{size:8d}" for size in sizes))
