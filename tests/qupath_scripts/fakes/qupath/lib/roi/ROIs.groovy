package qupath.lib.roi

class ROIs {
    static FakeROI createRectangleROI(double x, double y, double w, double h, Object plane) {
        return new FakeROI('Polygon', [[[[x, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]]]])
    }
}
