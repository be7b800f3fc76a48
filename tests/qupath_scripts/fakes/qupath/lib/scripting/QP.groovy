package qupath.lib.scripting

import com.google.gson.Gson

import qupath.lib.images.ImageData
import qupath.lib.io.PathIO
import qupath.lib.objects.classes.PathClass
import qupath.lib.projects.Project
import qupath.lib.projects.ProjectImageEntry

/** What scripts call without saying of what; only what QuPath 0.5 to 0.8 all have. */
class QP {
    public static final String PROJECT_BASE_DIR = '{%PROJECT}'
    static Map world = [:]

    static ImageData getCurrentImageData() { world.open == null ? null : world.images[world.open].data }
    static Project getProject() { world.project }
    static ProjectImageEntry getProjectEntry() { world.project == null || world.open == null ? null : world.images[world.open] }
    static PathClass getPathClass(String name) { PathClass.of(name, 0x404040) }

    static String buildFilePath(String... parts) {
        if (parts[0] == PROJECT_BASE_DIR) {
            if (world.folder == null)
                throw new IllegalArgumentException('No current project')
            parts[0] = world.folder
        }
        def file = new File(parts[0])
        parts.drop(1).each { file = new File(file, it) }
        return file.getAbsolutePath()
    }

    static boolean mkdirs(String path) { new File(path).mkdirs() }

    static void exportObjectsToGeoJson(Collection objects, String path, String... options) {
        if (!path.endsWith('.geojson') || !options.contains('FEATURE_COLLECTION'))
            throw new IllegalArgumentException('a test needs the usual export')
        def features = objects.collect { PathIO.write(it) }
        // The key metadata stands there twice from 0.6 on.
        def text = features.collect { new Gson().toJson(it).replaceFirst('"objectType"', '"metadata":{},"metadata":{},"objectType"') }
        new File(path).setText('{"type":"FeatureCollection","features":[' + text.join(',') + ']}', 'UTF-8')
    }
}
