package qupath.lib.io

import java.util.zip.GZIPInputStream

import com.google.gson.Gson

import qupath.lib.objects.PathObject
import qupath.lib.objects.classes.PathClass
import qupath.lib.roi.FakeROI

/** Reads what QuPath reads, and throws where it does: one bad feature and nothing is read. */
class PathIO {
    static List<PathObject> readObjects(File file) {
        def name = file.getName().toLowerCase()
        def inner = name.endsWith('.gz') ? name[0..-4] : name
        if (!inner.endsWith('.json') && !inner.endsWith('.geojson'))
            return []
        def text = file.withInputStream { raw -> (name.endsWith('.gz') ? new GZIPInputStream(raw) : raw).getText('UTF-8') }
        def tree = new Gson().fromJson(text, Object)
        if (!(tree instanceof Map) || tree.type != 'FeatureCollection')
            return []
        return tree.features.collect { read(it) }
    }

    static PathObject read(Map feature) {
        if (feature == null || feature.geometry == null || !(feature.geometry.type in ['Polygon', 'MultiPolygon', 'Point', 'LineString']))
            throw new IllegalArgumentException('Unknown geometry ' + feature?.geometry)
        def known = feature.properties?.classification
        if (known instanceof Map && (!known.name || known.color == null || known.color.size() != 3))
            throw new com.google.gson.JsonParseException('Classification without color')
        def shape = feature.geometry.coordinates
        def type = feature.geometry.type
        def parts = type == 'MultiPolygon' ? shape : type == 'Polygon' ? [shape] : type == 'LineString' ? [[shape]] : [[[shape]]]
        parts.each { rings -> rings.each { ring ->
            if (type.endsWith('Polygon') && (ring.size() < 4 || ring[0] != ring[-1]))
                throw new IllegalArgumentException('Points of LinearRing do not form a closed linestring')
        } }
        def id
        try {
            id = UUID.fromString(feature.id)
        } catch (Exception error) {
            id = UUID.randomUUID()
        }
        def rgb = known == null ? 0 : (known.color[0] as int) * 65536 + (known.color[1] as int) * 256 + (known.color[2] as int)
        def object = new PathObject(id, feature.properties?.objectType ?: 'annotation',
            new FakeROI(type, parts), known == null ? null : PathClass.of(known.name, rgb))
        object.setLocked(feature.properties?.isLocked ?: false)
        (feature.properties?.measurements ?: [:]).each { measure, value -> object.getMeasurementList().put(measure, value as double) }
        object.addChildObjects((feature.properties?.childObjects ?: []).collect { read(it) })
        return object
    }

    static Map write(PathObject object) {
        def properties = [objectType: object.kind]
        if (object.getPathClass() != null)
            properties.classification = [name: object.getPathClass().toString(), color: [200, 0, 0]]
        return [type: 'Feature', id: object.getID().toString(), geometry: object.getROI().toGeometry(), properties: properties]
    }
}
