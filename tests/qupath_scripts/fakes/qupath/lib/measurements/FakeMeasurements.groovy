package qupath.lib.measurements

class FakeMeasurements {
    final Map<String, Number> held = new LinkedHashMap()

    void put(String name, double value) { held[name] = (value as float) as double }

    void putAll(FakeMeasurements other) { other.held.each { name, value -> put(name, value as double) } }

    List<String> getMeasurementNames() { held.keySet().toList() }
}
