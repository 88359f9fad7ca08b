"""Coarser visual meshes for collecting demonstrations; never for a reported evaluation.

Software rendering is bound by triangles. Vertices are merged on a grid (Rossignac & Borrel 1993)
in the compiled model, just before the renderer uploads it: no files, no cache, and the physics,
which collides other geoms, cannot notice.
"""

from typing import Any

import numpy as np

KEEP = 0.08
"""Share of the faces that is kept, but for..."""
SMALLEST = 2500
"""...the faces that every mesh keeps: below, thin plates and handles get holes."""
LINKS, LINK_FACES = "robot0_link", 1000
"""Bodies of the arm, thick and never handled, and what each of their meshes keeps."""


def decimate(model: Any) -> float:
    """Merges vertices of the visual meshes of a compiled `mujoco.MjModel`, in place.

    Returns:
        Faces left, as a share of what there was.
    """
    visual = (model.geom_contype == 0) & (model.geom_conaffinity == 0)
    used = {int(i) for i in model.geom_dataid[visual] if i >= 0}
    colliding = {int(i) for i in model.geom_dataid[~visual] if i >= 0}
    before = int(model.mesh_facenum.sum())
    links = {
        int(model.geom_dataid[geom])
        for geom in range(model.ngeom)
        if model.body(model.geom_bodyid[geom]).name.startswith(LINKS)
    }
    for mesh in sorted(used - colliding):
        count = int(model.mesh_facenum[mesh])
        wanted = LINK_FACES if mesh in links else max(SMALLEST, int(KEEP * count))
        if count > 2 * wanted:
            _decimate_mesh(model, mesh, wanted)
    return int(model.mesh_facenum.sum()) / before


def _decimate_mesh(model: Any, mesh: int, wanted: int) -> None:
    start, count = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
    rows = slice(start, start + count)
    vertices = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
    faces = np.array(model.mesh_face[rows])
    # The number of faces falls with the square of the cell; a few bisections come close enough.
    low, high = 1e-3, 0.5
    kept = np.arange(count)
    merged = faces
    for _ in range(7):
        cell = np.sqrt(low * high)
        merged, kept = _merge(vertices, faces, cell)
        low, high = (cell, high) if len(kept) > wanted else (low, cell)
    left = slice(start, start + len(kept))
    model.mesh_face[left] = merged[kept]
    for corners in (model.mesh_facenormal, model.mesh_facetexcoord):
        corners[left] = np.array(corners[rows])[kept]
    model.mesh_facenum[mesh] = len(kept)


def _merge(vertices: np.ndarray, faces: np.ndarray, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Moves every vertex to the one nearest its cell's mean; returns faces and which survive."""
    size = np.ptp(vertices, axis=0).max() * cell
    keys = np.floor((vertices - vertices.min(axis=0)) / size).astype(np.int64)
    code = (keys[:, 0] << 40) + (keys[:, 1] << 20) + keys[:, 2]
    _, cluster = np.unique(code, return_inverse=True)
    number = cluster.max() + 1
    mean = np.stack([np.bincount(cluster, vertices[:, i], number) for i in range(3)], axis=1)
    mean /= np.bincount(cluster, minlength=number)[:, None]
    distance = np.linalg.norm(vertices - mean[cluster], axis=1)
    order = np.argsort(-distance)
    representative = np.empty(number, dtype=faces.dtype)
    representative[cluster[order]] = order  # the nearest is written last
    merged = representative[cluster][faces]
    a, b, c = merged.T
    alive = np.flatnonzero((a != b) & (b != c) & (a != c))
    _, first = np.unique(np.sort(merged[alive], axis=1), axis=0, return_index=True)
    return merged, alive[np.sort(first)]
