package qupath.lib.objects

import qupath.lib.measurements.FakeMeasurements
import qupath.lib.objects.classes.PathClass
import qupath.lib.roi.FakeROI

class PathObject {
    final UUID uuid
    final String kind
    FakeROI shape
    PathClass known
    boolean locked
    final FakeMeasurements list = new FakeMeasurements()
    PathObject above
    final List<PathObject> below = []

    PathObject(UUID uuid, String kind, FakeROI shape, PathClass known) {
        this.uuid = uuid
        this.kind = kind
        this.shape = shape
        this.known = known
    }

    UUID getID() { uuid }
    FakeROI getROI() { shape }
    PathClass getPathClass() { known }
    boolean isAnnotation() { kind == 'annotation' }
    boolean isDetection() { kind == 'detection' || kind == 'tile' || kind == 'cell' }
    boolean isTile() { kind == 'tile' }
    boolean isCell() { kind == 'cell' }
    boolean isLocked() { locked }
    void setLocked(boolean value) { locked = value }
    FakeMeasurements getMeasurementList() { list }
    PathObject getParent() { above }
    PathObject[] getChildObjectsAsArray() { below as PathObject[] }

    void addChildObjects(Collection<PathObject> objects) {
        for (object in objects) {
            if (object.above != null)
                object.above.below.remove(object)
            object.above = this
        }
        below.addAll(objects)
    }

    void clearChildObjects() {
        below.each { it.above = null }
        below.clear()
    }
}
