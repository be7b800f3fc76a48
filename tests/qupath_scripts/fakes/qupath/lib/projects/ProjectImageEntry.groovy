package qupath.lib.projects

import qupath.lib.images.ImageData

class ProjectImageEntry {
    final String key
    final Map told
    final ImageData data
    int reads = 0
    int saves = 0

    ProjectImageEntry(String key, Map told, ImageData data) {
        this.key = key
        this.told = told
        this.data = data
    }

    String getID() { key }
    String getImageName() { told.name }
    Collection<URI> getURIs() { data.getServer().getURIs() }
    Map<String, String> getMetadataMap() { told.metadata ?: [:] }

    ImageData readImageData() {
        if (told.gone)
            throw new IOException("Unable to build ImageServer for ${told.uri}")
        reads++
        return data
    }

    void saveImageData(ImageData saved) { saves++ }
}
