package qupath.lib.images.servers

class LabeledImageServer {
    Map labels = new LinkedHashMap()
    double factor
    boolean gray = false

    static class Builder {
        private final LabeledImageServer made = new LabeledImageServer()

        Builder(Object data) { }

        Builder backgroundLabel(int value) { this }
        Builder downsample(double value) { made.factor = value; this }
        Builder useAnnotations() { this }
        Builder addLabel(qupath.lib.objects.classes.PathClass known, int value) { made.labels[known.toString()] = value; this }
        Builder grayscale() { made.gray = true; this }
        Builder multichannelOutput(boolean value) { this }
        LabeledImageServer build() { made }
    }
}
