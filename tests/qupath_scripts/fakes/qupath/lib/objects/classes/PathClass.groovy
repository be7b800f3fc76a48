package qupath.lib.objects.classes

/** One instance per name, as in QuPath: the first colour stays. */
class PathClass {
    private static final Map known = [:]
    private final String text
    private Integer color

    private PathClass(String text, Integer color) {
        this.text = text
        this.color = color
    }

    static PathClass of(String name, Integer color) {
        if (!known.containsKey(name))
            known[name] = new PathClass(name, color)
        return known[name]
    }

    Integer getColor() { color }
    String toString() { text }
}
