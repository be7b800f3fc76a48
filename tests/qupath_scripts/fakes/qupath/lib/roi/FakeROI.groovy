package qupath.lib.roi

/** Rings of one or more polygons, points or a line; in pixels. */
class FakeROI {
    final String type
    final List parts // polygons: list of lists of rings

    FakeROI(String type, List parts) {
        this.type = type
        this.parts = parts
    }

    private List vertices() {
        def all = []
        parts.each { rings -> rings.each { ring -> all.addAll(ring) } }
        return all
    }

    double getBoundsX() { vertices().collect { it[0] as double }.min() }
    double getBoundsY() { vertices().collect { it[1] as double }.min() }
    double getBoundsWidth() { (vertices().collect { it[0] as double }.max() as double) - getBoundsX() }
    double getBoundsHeight() { (vertices().collect { it[1] as double }.max() as double) - getBoundsY() }
    boolean isArea() { type.endsWith('Polygon') }
    boolean isPoint() { type.endsWith('Point') }
    int getZ() { 0 }
    int getT() { 0 }

    double getArea() {
        if (!isArea())
            return 0d
        def total = 0d
        parts.each { rings -> rings.eachWithIndex { ring, number -> total += (number == 0 ? 1 : -1) * Math.abs(shoelace(ring)) } }
        return total
    }

    private static double shoelace(List ring) {
        def twice = 0d
        for (int i = 0; i + 1 < ring.size(); i++)
            twice += (ring[i][0] as double) * (ring[i + 1][1] as double) - (ring[i + 1][0] as double) * (ring[i][1] as double)
        return twice / 2
    }

    FakeROI moved(double dx, double dy) {
        return new FakeROI(type, parts.collect { rings -> rings.collect { ring -> ring.collect { [it[0] + dx, it[1] + dy] } } })
    }

    boolean covers(FakeROI other) {
        return isArea() && other.getBoundsX() >= getBoundsX() && other.getBoundsY() >= getBoundsY() &&
            other.getBoundsX() + other.getBoundsWidth() <= getBoundsX() + getBoundsWidth() &&
            other.getBoundsY() + other.getBoundsHeight() <= getBoundsY() + getBoundsHeight()
    }

    Map toGeometry() {
        def multi = type.startsWith('Multi')
        return [type: type, coordinates: multi ? parts : parts[0]]
    }
}
