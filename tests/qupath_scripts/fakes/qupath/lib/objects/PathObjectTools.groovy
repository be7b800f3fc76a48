package qupath.lib.objects

import java.awt.geom.AffineTransform

class PathObjectTools {
    /** Keeps the id, and leaves the children behind, as the method with three arguments does. */
    static PathObject transformObject(PathObject object, AffineTransform transform, boolean copyMeasurements) {
        def made = new PathObject(object.getID(), object.kind, object.getROI().moved(transform.getTranslateX(), transform.getTranslateY()), object.getPathClass())
        if (copyMeasurements)
            made.getMeasurementList().putAll(object.getMeasurementList())
        made.setLocked(object.isLocked())
        return made
    }
}
