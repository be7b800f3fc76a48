package qupath.lib.images.servers

class FakeCalibration {
    final List um

    FakeCalibration(List um) { this.um = um }

    boolean hasPixelSizeMicrons() { um != null }
    double getPixelWidthMicrons() { um == null ? Double.NaN : um[0] as double }
    double getPixelHeightMicrons() { um == null ? Double.NaN : um[1] as double }
    double getAveragedPixelSizeMicrons() { (getPixelWidthMicrons() + getPixelHeightMicrons()) / 2 }
}

class FakeMetadata {
    final String text
    final FakeCalibration calibration

    FakeMetadata(String text, FakeCalibration calibration) {
        this.text = text
        this.calibration = calibration
    }

    String getName() { text }
    FakeCalibration getPixelCalibration() { calibration }
}

class FakeServer {
    final Map told
    int closed = 0

    FakeServer(Map told) { this.told = told }

    int getWidth() { told.width as int }
    int getHeight() { told.height as int }
    Collection<URI> getURIs() { told.uri == null ? [] : [new URI(told.uri)] }
    String getPath() { told.path ?: 'qupath.lib.images.servers.openslide.OpenslideImageServer: ' + told.uri }
    String getServerType() { told.type ?: 'OpenSlide' }
    FakeCalibration getPixelCalibration() { new FakeCalibration(told.mpp) }
    FakeMetadata getMetadata() { new FakeMetadata(told.name, getPixelCalibration()) }
    FakeMetadata getOriginalMetadata() { new FakeMetadata(told.name, new FakeCalibration(told.containsKey('originalMpp') ? told.originalMpp : told.mpp)) }
    void close() { closed++ }
}
