package qupath.lib.objects

class PathObjects {
    static PathObject createAnnotationObject(Object roi, Object known) {
        return new PathObject(UUID.randomUUID(), 'annotation', roi, known)
    }
}
