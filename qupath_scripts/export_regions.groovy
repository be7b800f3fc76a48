/*
 * Tiles of the open image with masks of your annotations, at one pixel size, for other tools.
 * QuPath 0.5 or newer. (wsiseg itself needs none: see export_annotations.groovy.)
 *
 *   <out>/<image>/images/...png   <out>/<image>/masks/...png    one mask per tile, same name
 *   <out>/<image>/classes.csv     pixel value, class and colour
 *   <out>/<image>/tiles.csv       image, mask, and its box x,y,width,height in pixels of QuPath's image
 *
 * In QuPath: Automate > Script editor, open this file, set pixel size and tile, Run. "Run for project"
 * does the images chosen there. Without a window:
 *   QuPath script export_regions.groovy -p project.qpproj -a /data/tiles -a pixelSize=0.5
 *
 * Where annotations overlap, the class that is later in `classes` counts. Masks are plain 8 bits: pixel
 * value = number of the class, 0 is the background.
 */

// ---- Settings: an argument such as -a tile=256 replaces them ------------------------------------
def settings = [
    out       : '',        // folder to write; '' is the folder `wsiseg-tiles` in the project's folder
    pixelSize : '0.5',     // µm per pixel of the tiles
    downsample: '',        // instead of pixelSize, for images without one: 1 is full resolution
    tile      : '512',     // pixels per side
    overlap   : '0',       // pixels that neighbours share
    classes   : '',        // 'Stroma, Tumor' get the values 1, 2; '': all classes in order of their names
    ignore    : 'Ignore*', // classes of areas that nobody can tell: value 255
    regions   : 'Region*', // classes of regions; they are not labels themselves
    what      : 'annotated', // tiles: 'annotated' (with an annotation on them), 'all', or 'regions': each
                             // region whole, as one image
    partial   : 'no',      // 'yes': the smaller tiles at the right and lower edge, too
    format    : 'png',     // of the images: 'png', 'jpg', 'tif'
]
// -------------------------------------------------------------------------------------------------

import java.nio.file.Paths
import java.text.Normalizer

import com.google.gson.Gson

import qupath.lib.images.servers.LabeledImageServer
import qupath.lib.images.writers.TileExporter

readArguments(settings, 'out')
if (getCurrentImageData() == null)
    throw new IllegalStateException('no image is open; open one')
def data = getCurrentImageData()
def server = data.getServer()
def name = nameOfImage(data)
if (!settings.out && getProject() == null)
    throw new IllegalStateException("say in the settings where to write: out = '/folder/for/tiles'")
def out = new File(settings.out ?: buildFilePath(PROJECT_BASE_DIR, 'wsiseg-tiles'), fileNameOf(name))
def downsample = downsampleOf(server, settings)
def ignore = listOf(settings.ignore), regions = listOf(settings.regions)
def areas = data.getHierarchy().getAnnotationObjects().findAll { it.getROI().isArea() && it.getPathClass() != null }
def drawn = areas.collect { it.getPathClass().toString() }.unique().sort()
def classes = listOf(settings.classes) ?: drawn.findAll { !ignore.contains(it) && !regions.contains(it) }
if (classes.size() > 254)
    throw new IllegalStateException("${classes.size()} classes; a mask of 8 bits holds 254: name those you need")
if (!classes.any { drawn.contains(it) })
    throw new IllegalStateException("${name}: no annotation of ${classes ? 'class ' + classes.join(', ') : 'any class'}; there are ${drawn ? drawn.join(', ') : 'none'}")
if (out.exists() && out.list().length > 0)
    throw new IllegalStateException("${out}: is there already; move it away, or set another out")

def values = new LinkedHashMap()
classes.eachWithIndex { known, number -> values[known] = number + 1 }
drawn.findAll { ignore.contains(it) }.each { values[it] = 255 } // last, so that it covers the others
def labels = new LabeledImageServer.Builder(data).backgroundLabel(0).downsample(downsample).useAnnotations()
values.each { known, value -> labels.addLabel(getPathClass(known), value) }
labels = labels.grayscale().multichannelOutput(false).build()

def exporter = new TileExporter(data).downsample(downsample).imageExtension('.' + settings.format).labeledImageExtension('.png')
    .labeledServer(labels).imageSubDir('images').labeledImageSubDir('masks').exportJson(true)
if (settings.what == 'regions') {
    def wanted = areas.findAll { regions.contains(it.getPathClass().toString()) }
    if (!wanted)
        throw new IllegalStateException("${name}: no region of class ${settings.regions}; draw one, or set what = 'annotated'")
    exporter.parentObjects(wanted).useROIBounds(true).includePartialTiles(true)
} else {
    exporter.tileSize(settings.tile as int).overlap(settings.overlap as int).includePartialTiles(settings.partial == 'yes')
        .annotatedTilesOnly(settings.what != 'all')
}
println "wsiseg: ${name}: writing tiles at ${downsample} x downsample to ${out} ..."
mkdirs(out.getPath())
exporter.writeTiles(out.getPath())

// QuPath only logs a tile that could not be written: count.
def lists = out.listFiles().findAll { it.getName().endsWith('-tiles.json') }
def tiles = lists ? new Gson().fromJson(lists[0].getText('UTF-8'), Map).tiles : []
def written = { folder, path -> path ? [new File(out, path), new File(new File(out, folder), path)].find { it.length() > 0 } : null }
def missing = tiles.findAll { !written('images', it.image) || !written('masks', it.labels) }
def cell = { value -> value.toString() =~ /[",\n]/ ? '"' + value.toString().replace('"', '""') + '"' : value.toString() }
new File(out, 'classes.csv').withWriter('UTF-8') { writer ->
    writer << 'value,class,color\n0,,\n'
    values.each { known, value ->
        def color = getPathClass(known).getColor()
        writer << "${value},${cell(known)},${color == null ? '' : String.format('#%06x', (color as int) & 0xffffff)}\n"
    }
}
new File(out, 'tiles.csv').withWriter('UTF-8') { writer ->
    writer << 'image,mask,x,y,width,height\n'
    (tiles - missing).each { tile ->
        def box = (tile.image =~ /x=(-?\d+),y=(-?\d+),w=(\d+),h=(\d+)[^\]]*\][^\]]*$/)[0] // as QuPath names its tiles
        writer << [cell('images/' + new File(tile.image).getName()), cell('masks/' + new File(tile.labels).getName()), *box[1..4]].join(',') << '\n'
    }
}
println "wsiseg: ${name}: ${tiles.size() - missing.size()} tiles; the values are ${values.collect { known, value -> "${value} ${known}" }.join(', ')}"
if (!tiles)
    throw new IllegalStateException("${name}: no tile written; take a smaller tile, or partial = 'yes'")
if (missing)
    throw new IllegalStateException("${name}: ${missing.size()} of ${tiles.size()} tiles could not be written; the log says why")


/** Pixels of the image per pixel of a tile. */
def downsampleOf(server, settings) {
    if (settings.downsample)
        return settings.downsample as double
    def calibration = server.getPixelCalibration()
    if (!calibration.hasPixelSizeMicrons())
        throw new IllegalStateException("the image has no pixel size; set it in the Image tab, or set downsample instead of pixelSize")
    def downsample = (settings.pixelSize as double) / calibration.getAveragedPixelSizeMicrons()
    if (downsample < 0.98)
        throw new IllegalStateException("pixelSize ${settings.pixelSize} is finer than the image, which has ${calibration.getAveragedPixelSizeMicrons()} µm; take that or more")
    return Math.max(1, downsample)
}

/** A file name for an image, without what some system refuses. */
def fileNameOf(name) {
    def clean = stemOf(name).replaceAll(/[\\\/:*?"<>|\x00-\x1f]/, '_').replaceAll(/^[. ]+|[. ]+$/, '')
    return clean ?: 'image'
}

def listOf(text) {
    return text.split(',').collect { it.trim() }.findAll { it }
}

// >>> shared: image
/** Take arguments `key=value`; one without a key is the setting `first`. */
def readArguments(settings, first) {
    def given = []
    try {
        given = args == null ? [] : args.toList()
    } catch (MissingPropertyException error) {
        // none were given
    }
    given.each { argument ->
        def at = argument.indexOf('=')
        def key = at < 0 ? '' : argument.substring(0, at).trim()
        if (settings.containsKey(key))
            settings[key] = argument.substring(at + 1).trim()
        else if (at < 0 || argument.contains('/') || argument.contains('\\'))
            settings[first] = argument
        else
            throw new IllegalArgumentException("unknown setting '${key}'; there are ${settings.keySet().join(', ')}")
    }
}

/** The file that an image's URIs name; null if it is not a file of this machine. */
def fileOf(uris) {
    if (uris == null || uris.isEmpty())
        return null
    def uri = uris.iterator().next()
    if (uri.getScheme() != null && uri.getScheme() != 'file')
        return null
    try {
        return uri.getScheme() == null ? new File(uri.getPath())
            : Paths.get(new URI('file', uri.getAuthority(), uri.getPath(), null, null)).toFile()
    } catch (IllegalArgumentException error) {
        return null
    }
}

/** What the image is called: in the project, else by itself. */
def nameOfImage(data) {
    def entry = getProjectEntry()
    return entry != null ? entry.getImageName() : data.getServer().getMetadata().getName()
}

/** Refuse an image that QuPath shows otherwise than its file has it: coordinates would be others. */
def refuseTransformed(server) {
    def kinds = ['RotatedImageServer', 'FlippedImageServer', 'AffineTransformImageServer', 'CroppedImageServer']
    def told = server.getClass().getName() + ' ' + server.getPath()
    if (kinds.any { told.contains(it) } || server.getServerType() =~ /(?i)rotat|flip|affine|crop/)
        throw new IllegalStateException("QuPath shows this image rotated, flipped or cropped (${server.getServerType()}); " +
            'add the slide to the project once more without that')
}

/** Name without folder and suffix; `.ome.tif` and the like count as one suffix. */
def stemOf(name) {
    def stem = name.lastIndexOf('.') > 0 ? name.substring(0, name.lastIndexOf('.')) : name
    return stem.toLowerCase().endsWith('.ome') ? stem.substring(0, stem.length() - 4) : stem
}

/** A name to compare with: systems spell umlauts in two ways. */
def plain(name) {
    return name == null ? null : Normalizer.normalize(name, Normalizer.Form.NFC).toLowerCase(Locale.ROOT)
}

def inOneLine(error) {
    if (error instanceof OutOfMemoryError)
        return 'too little memory; give QuPath more (Help > Show setup options), or split the result'
    def text = error.getMessage() ?: error.getClass().getSimpleName()
    def known = error instanceof IllegalStateException || error instanceof IllegalArgumentException
    return ((known ? '' : error.getClass().getSimpleName() + ': ') + text).replaceAll(/\s+/, ' ')
}
// <<< shared: image
