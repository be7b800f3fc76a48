package qupath.lib.gui.viewer

class FakeOptions {
    Object mapper
    boolean detections = false
    boolean filled = false

    void setMeasurementMapper(Object value) { mapper = value }
    void setShowDetections(boolean value) { detections = value }
    void setFillDetections(boolean value) { filled = value }
}

class FakeViewer {
    final FakeOptions options = new FakeOptions()

    FakeOptions getOverlayOptions() { options }
}
