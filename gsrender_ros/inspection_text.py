"""The report of ``inspection`` as text."""

_STOPS = {"both": "STOPS inference and training", "training": "STOPS training", "inference": "STOPS inference"}


def report_text(report: dict) -> str:
    """What ``inspection.inspect`` found, for people."""
    bag = report["bag"]
    size = sum(file["bytes"] for file in bag["files"])
    lines = [
        f"{bag['path']}: {bag['duration_s']:.2f} s, {bag['messages']} messages, {len(bag['files'])} files, "
        f"{_size(size)}",
        "",
        "topics",
        *_table([_topic_row(topic) for topic in report["topics"]]),
        "",
        "transforms",
        *_table([_tf_row(row) for row in report["tf"]] or [["none"]]),
    ]
    if report["cameras"]:
        lines += ["", "cameras", *_table([_camera_row(camera) for camera in report["cameras"]])]
        spread = report["spread_s"]
        if spread:
            lines.append(
                f"  their images lie {spread['median']:.3f} s apart (median), {spread['p95']:.3f} s (95 %), "
                f"{spread['largest']:.3f} s (largest)"
            )
    if report["lidars"]:
        lines += ["", "LiDARs", *_table([_lidar_row(lidar) for lidar in report["lidars"]])]
    if "frames" in report:
        frames = report["frames"]
        lines += ["", f"frames to train on: {frames['usable']}" + _frames_tail(report)]
    if report.get("parameters"):
        changed = ", ".join(f"{name}: {_value(value)}" for name, value in report["parameters"].items())
        lines += ["", f"rig (parameters of the node): {changed}"]
    lines += ["", "problems" if report["problems"] else "no problems"]
    lines += [f"  {_STOPS.get(p['stops'], 'note')}: {p['text']}" for p in report["problems"]]
    return "\n".join(lines) + "\n"


def _frames_tail(report: dict) -> str:
    frames = report["frames"]
    if "sets" not in frames:
        return ""
    return f" (of {frames['sets']} sets of images); classes from {report['supervision']}"


def _topic_row(topic: dict) -> list[str]:
    rate = f"{topic['rate_hz']:.1f} Hz" if topic["rate_hz"] else ""
    return [
        topic["topic"],
        topic["type"],
        str(topic["messages"]),
        rate,
        _size(topic["bytes"]),
        ", ".join(topic["frames"]),
    ]


def _tf_row(row: dict) -> list[str]:
    kind = "static" if row["static"] else f"{row['rate_hz']:.1f} Hz" if row.get("rate_hz") else ""
    return [f"{row['parent']} -> {row['child']}", str(row["transforms"]), kind, row.get("on", "")]


def _camera_row(camera: dict) -> list[str]:
    size = "x".join(map(str, camera["size"])) if camera["size"] else "unreadable"
    if "K" not in camera:
        return [camera["camera"], camera["frame"], size, "no CameraInfo", ""]
    model, values = camera["distortion"]
    lens = f"{model} {[round(v, 4) for v in values]}" if any(values) else "no distortion"
    return [camera["camera"], camera["frame"], size, f"f {camera['K'][0]:.1f} {camera['K'][4]:.1f} px", lens]


def _lidar_row(lidar: dict) -> list[str]:
    if "problem" in lidar:
        return [lidar["topic"], lidar["problem"]]
    times = "no times of points"
    if lidar["sweep_s"]:
        times = f"times {lidar['time_field']}, {lidar['sweep_s'][0]:.3f} to {lidar['sweep_s'][1]:.3f} s"
    return [
        lidar["topic"],
        lidar["frame"],
        f"{lidar['points']} points",
        f"{lidar['height_m']:.2f} m above the ground" if lidar.get("height_m") is not None else "",
        "organised" if lidar["organised"] else "",
        times,
        f"classes in {lidar['sweeps_with_classes']} of {lidar['messages']} sweeps",
        " ".join(lidar["fields"]),
    ]


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows
    ]


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _value(value) -> str:
    return "[" + ", ".join(value) + "]" if isinstance(value, tuple | list) else str(value)
