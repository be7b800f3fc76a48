package qupath.lib.images

import qupath.lib.images.servers.FakeServer
import qupath.lib.objects.hierarchy.PathObjectHierarchy

class ImageData {
    private final FakeServer pixels
    private final PathObjectHierarchy tree
    private final Map properties

    ImageData(FakeServer pixels, PathObjectHierarchy tree, Map properties) {
        this.pixels = pixels
        this.tree = tree
        this.properties = properties
    }

    FakeServer getServer() { pixels }
    PathObjectHierarchy getHierarchy() { tree }
    Object getProperty(String key) { properties.get(key) }
    void setProperty(String key, Object value) {
        if (!(value instanceof String))
            throw new IllegalArgumentException('kept with the image: plain text only')
        properties.put(key, value)
    }
}
