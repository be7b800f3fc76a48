package qupath.lib.objects.hierarchy

import qupath.lib.objects.PathObject

class PathObjectHierarchy {
    final PathObject root = new PathObject(UUID.randomUUID(), 'root', null, null)
    int changes = 0
    int resolved = 0

    private void collectBelow(PathObject parent, List all) {
        for (child in parent.below) {
            all << child
            collectBelow(child, all)
        }
    }

    Collection<PathObject> getAllObjects(boolean includeRoot) {
        def all = includeRoot ? [root] : []
        collectBelow(root, all)
        return all
    }

    Collection<PathObject> getAnnotationObjects() { getAllObjects(false).findAll { it.isAnnotation() } }
    Collection<PathObject> getDetectionObjects() { getAllObjects(false).findAll { it.isDetection() } }

    boolean addObjects(Collection objects) {
        for (object in objects)
            put(object, root)
        changes++
        return true
    }

    void removeObjects(Collection objects, boolean keepChildren) {
        for (object in objects) {
            if (object.above == null)
                continue
            def parent = object.above
            parent.below.remove(object)
            object.above = null
            if (keepChildren)
                for (child in object.below.toList())
                    put(child, root)
        }
        changes++
    }

    void fireHierarchyChangedEvent(Object source) { changes++ }

    void resolveHierarchy() {
        resolved++
        def all = getAllObjects(false).sort { -it.getROI().getArea() }
        for (object in all) {
            def around = all.findAll { it != object && it.isAnnotation() && it.getROI().getArea() > object.getROI().getArea() && it.getROI().covers(object.getROI()) }
            put(object, around ? around.min { it.getROI().getArea() } : root)
        }
        changes++
    }

    private static void put(PathObject object, PathObject parent) {
        if (object.above != null)
            object.above.below.remove(object)
        object.above = parent
        parent.below << object
    }
}
