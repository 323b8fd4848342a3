"""Back ends that run a device's stage: torch, ONNX Runtime and OpenVINO, behind one protocol (stage.py).

    stage = open_stage(Path("tower.onnx"), "openvino", threads=2, precision="bfloat16")
    stage.run({"pixel_values": pixels_NCHW})      # visual tokens [V, D], float32

numpy alone crosses the face. Each library is imported where a stage of its own is opened: a device that serves exported stages
needs no torch, and one that has no OpenVINO is told so by name.
"""
