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
    boolean isLocked() { locked }
    void setLocked(boolean value) { locked = value }
    FakeMeasurements getMeasurementList() { list }
    PathObject getParent() { above }
}
