package qupath.lib.color

class ColorMaps {
    static Map<String, Object> getColorMaps() { [Viridis: 'viridis', Inferno: 'inferno'] }
}
