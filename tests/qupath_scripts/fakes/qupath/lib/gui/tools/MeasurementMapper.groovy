package qupath.lib.gui.tools

class MeasurementMapper {
    final Object colors
    final String name
    final int count
    double low
    double high

    MeasurementMapper(Object colors, String name, Collection objects) {
        this.colors = colors
        this.name = name
        this.count = objects.size()
    }

    void setDisplayMinValue(double value) { low = value }
    void setDisplayMaxValue(double value) { high = value }
}
