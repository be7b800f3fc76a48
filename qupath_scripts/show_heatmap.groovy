/*
 * wsiseg's heatmap over the open slide, as tiles coloured by probability. QuPath 0.5 or newer.
 *
 * First, in a terminal, with RESULTS the folder that `wsiseg segment --out` wrote:
 *   wsiseg export RESULTS --to qupath --as tiles --out RESULTS/heatmaps
 * writes GeoJSON of tiles with a measurement `prob_<class>` each; --tile 128 makes them of 128 µm.
 *
 * In QuPath: open the slide, Automate > Script editor, open this file, Run. Measure > Show measurement
 * maps (Shift+Ctrl+M) then changes range, colours and class; View > Fill detections fills the tiles.
 * clear = 'yes' takes the tiles away again.
 *
 * Without a window only the tiles are imported:
 *   QuPath script show_heatmap.groovy -p project.qpproj -s -a /results
 */

// ---- Settings: an argument such as -a measurement=prob_Stroma replaces them ---------------------
def settings = [
    results    : '',        // folder with the tiles, or one around it, or the .geojson(.gz) itself;
                            // '' is the folder `wsiseg` in the project's folder
    measurement: '',        // for instance 'prob_Tumor'; '' is that of the first class
    colors     : 'Inferno', // a colour map of QuPath: Viridis, Magma, Inferno, Plasma, Jet, ...
    minimum    : '0',       // probability of the first colour
    maximum    : '1',       // and of the last
    clear      : 'no',      // 'yes': remove the tiles of an earlier run, and show no heatmap
    renamed    : 'no',      // 'yes': take the result named above although it is of an image of another name
]
// -------------------------------------------------------------------------------------------------

import java.awt.geom.AffineTransform
import java.nio.file.Paths
import java.text.Normalizer
import java.util.zip.GZIPInputStream

import com.google.gson.Gson
import javafx.application.Platform

import qupath.lib.color.ColorMaps
import qupath.lib.gui.tools.MeasurementMapper
import qupath.lib.io.PathIO
import qupath.lib.objects.PathObjectTools

readArguments(settings, 'results')
if (getCurrentImageData() == null)
    throw new IllegalStateException('no image is open; open the slide')
def data = getCurrentImageData()
def name = nameOfImage(data)
if (settings.clear == 'yes') {
    def tiles = data.getHierarchy().getAllObjects(false).findAll { isHeatmapTile(it) }
    if (tiles)
        data.getHierarchy().removeObjects(tiles, true)
    show(null, settings, tiles)
    println "wsiseg: ${name}: ${tiles.size()} tiles removed"
    return
}

def place = placeOfResults(settings.results, getProject() == null ? null : buildFilePath(PROJECT_BASE_DIR, 'wsiseg'))
def export = "write them with: wsiseg export \"${place}\" --to qupath --as tiles --out \"${new File(place, 'heatmaps')}\""
def catalog = listResults(place).findAll { (place.isFile() && hasTiles(place)) || it.holds == 'tile' || (it.file == null && filesOf(it.folder, 'tiles')) }
if (!catalog)
    throw new IllegalStateException("${place}: no tiles in it; ${export}")
def result = resultFor(catalog, name, fileOf(data.getServer().getURIs()), { data.getServer() }, settings)
if (result == null)
    throw new IllegalStateException("${name}: no tiles in ${place}, which has those of ${catalog.collect { it.image ?: it.first.getName() }.join(', ')}; ${export}")
settings.putAll([kinds: 'tiles', edited: 'replace', stale: 'remove', lock: 'as written', hierarchy: 'no'])
def told = importResult(data, result, settings)
println "wsiseg: ${name}: ${told}"

def tiles = data.getHierarchy().getAllObjects(false).findAll { isHeatmapTile(it) }
def measurements = tiles ? measurementsOf(tiles[0]).findAll { it.startsWith('prob_') } : []
def wanted = settings.measurement ?: measurements.find { it != 'prob_background' } ?: measurements.find { true }
if (tiles && !measurements.contains(wanted))
    throw new IllegalStateException("no measurement ${wanted}; there are ${measurements.join(', ')}")
if (tiles)
    show(wanted, settings, tiles)


/** Whether a file has tiles anywhere, such as in pieces of tissue. */
def hasTiles(file) {
    return file.withInputStream { raw ->
        def stream = file.getName().toLowerCase().endsWith('.gz') ? new GZIPInputStream(raw) : raw
        new BufferedReader(new InputStreamReader(stream, 'UTF-8')).lines().anyMatch { it.contains('"objectType":"tile"') }
    }
}

def isHeatmapTile(object) {
    return object.isTile() && measurementsOf(object).any { it.startsWith('prob_') }
}

/** Names of an object's measurements; the method was renamed in QuPath 0.6. */
def measurementsOf(object) {
    def list = object.getMeasurementList()
    return list.respondsTo('getNames') ? list.getNames() : list.getMeasurementNames()
}

/** Colour the tiles in the viewer by a measurement; null: as usual. */
def show(wanted, settings, tiles) {
    if (getCurrentViewer() == null) {
        println 'wsiseg: no window, so nothing is coloured'
        return
    }
    def options = getCurrentViewer().getOverlayOptions()
    def mapper = null
    if (wanted != null) {
        def maps = ColorMaps.getColorMaps()
        def colors = maps.find { it.getKey().equalsIgnoreCase(settings.colors) }
        if (colors == null)
            throw new IllegalStateException("no colour map ${settings.colors}; there are ${maps.keySet().join(', ')}")
        mapper = new MeasurementMapper(colors.getValue(), wanted, tiles)
        mapper.setDisplayMinValue(settings.minimum as double)
        mapper.setDisplayMaxValue(settings.maximum as double)
    }
    Platform.runLater {
        options.setMeasurementMapper(mapper)
        if (mapper != null) {
            options.setShowDetections(true)
            options.setFillDetections(true)
        }
    }
    if (wanted != null)
        println "wsiseg: coloured by ${wanted}, ${settings.minimum} to ${settings.maximum} (${settings.colors}); Measure > Show measurement maps changes that"
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

// >>> shared: import
/** Where results are: what was set, else the folder `wsiseg` of the project. */
def placeOfResults(set, projectFolder) {
    if (!set && !projectFolder)
        throw new IllegalStateException('say in the settings where the results are: results = \'/folder/of/results\'')
    def place = new File(set ?: projectFolder)
    if (!place.exists())
        throw new IllegalStateException("${place}: no such file or folder; set results to the folder that `wsiseg segment --out` wrote")
    return place
}

/** Files of one kind (annotations, tissue, tiles) in a folder: the index first where there is one. */
def filesOf(folder, kind) {
    return ["${kind}.index.json", "${kind}.geojson", "${kind}.geojson.gz"].collect { new File(folder, it.toString()) }
        .findAll { it.isFile() }.take(1)
}

def isResult(folder) {
    return folder.isDirectory() && ['annotations', 'tissue', 'tiles'].any { filesOf(folder, it) }
}

/**
 * Every result in a folder, or the one that a file or folder is. Other GeoJSON counts, too, such as
 * `wsiseg export` writes, but not beside a result, where copies are kept. Pixels are not searched.
 */
def listResults(place) {
    if (place.isFile())
        return [resultOf(place.getAbsoluteFile().getParentFile(), place)]
    def found = []
    def waiting = [[place, 0]]
    while (waiting) {
        def (folder, depth) = waiting.remove(0)
        def inside = (folder.listFiles() ?: []).toList().findAll { !it.getName().startsWith('.') }.sort { it.getName() }
        if (isResult(folder))
            found << resultOf(folder, null)
        else
            found.addAll(inside.findAll { it.isFile() && isLoose(it) }.collect { resultOf(folder, it) })
        if (depth < 6)
            inside.each {
                if (it.isDirectory() && !it.getName().toLowerCase().endsWith('.zarr'))
                    waiting << [it, depth + 1]
            }
    }
    return found
}

/** Whether a file is a result by itself, and no part of one. */
def isLoose(file) {
    def name = file.getName()
    if (!(name.toLowerCase() ==~ /.*(\.index\.json|\.geojson(\.gz)?)/))
        return false
    def part = name =~ /^(.*)-\d{4}\.geojson(\.gz)?$/
    return !(part.matches() && new File(file.getParentFile(), part.group(1) + '.index.json').isFile())
}

/** A result: its folder, the file where it is one, the image it says it is of, and what it holds. */
def resultOf(folder, file) {
    def first = file ?: ['annotations', 'tissue', 'tiles'].collectMany { filesOf(folder, it) }[0]
    def head = [header: null, holds: null]
    try {
        head = headOf(first)
    } catch (IOException | com.google.gson.JsonParseException error) {
        // told when it is imported
    }
    return [folder: folder, file: file, first: first, image: head.header?.image, model: head.header?.model, holds: head.holds]
}

def headerOf(file) {
    return headOf(file).header
}

/** The member `wsiseg` of a file, which stands before the objects, and the type of the first object. */
def headOf(file) {
    if (file.getName().endsWith('.index.json')) {
        def index = new Gson().fromJson(file.getText('UTF-8'), Map)
        def part = index?.files ? new File(file.getParentFile(), index.files[0].file) : null
        return [header: index?.wsiseg, holds: part?.isFile() ? headOf(part).holds : null]
    }
    def text = new StringBuilder()
    file.withInputStream { raw ->
        def stream = file.getName().toLowerCase().endsWith('.gz') ? new GZIPInputStream(raw) : raw
        def reader = new InputStreamReader(stream, 'UTF-8')
        def buffer = new char[8192]
        while (text.length() < 1000000 && (text.indexOf('"features":[') < 0 || text.indexOf('"objectType":"') < 0)) {
            def count = reader.read(buffer)
            if (count < 0)
                break
            text.append(buffer, 0, count)
        }
    }
    def told = text.toString()
    def at = told.indexOf('"features":[')
    def type = told =~ /"objectType":"(\w+)"/
    def holds = type.find() ? type.group(1) : null
    try {
        def members = new Gson().fromJson(at < 0 ? told : told.substring(0, at) + '"features":[]}', Map)
        return [header: members?.wsiseg instanceof Map ? members.wsiseg : null, holds: holds]
    } catch (com.google.gson.JsonParseException error) {
        return [header: null, holds: holds] // some other program's, with objects first
    }
}

/**
 * The result that belongs to an image: by the name of its file, else by its name in the project, else
 * by the stem. Several are told apart by the slide's path in run.json, then by size. One that does
 * not say what it is of was named on purpose.
 */
def resultFor(catalog, name, file, server, settings) {
    def only = catalog.size() == 1 && settings.images != 'project' ? catalog[0] : null
    if (only != null && (only.image == null || settings.renamed == 'yes'))
        return only
    def names = [file == null ? null : plain(file.getName()), plain(name)].findAll { it != null }
    def chosen = []
    names.each { own -> chosen = chosen ?: catalog.findAll { plain(it.image) == own } }
    names.each { own ->
        chosen = chosen ?: catalog.findAll { (it.image ? stemOf(plain(it.image)) : plain(it.folder.getName())) == stemOf(own) }
    }
    chosen = chosen.findAll { !it.file } ?: chosen // rather than what was exported from it
    if (!chosen && only != null && only.image)
        throw new IllegalStateException("${only.file ?: only.folder}: is the result of ${only.image}; if this is that slide under another name, set renamed = 'yes'")
    if (chosen.size() > 1 && file != null)
        chosen = chosen.findAll { samePlace(it, file) } ?: chosen
    if (chosen.size() > 1)
        chosen = chosen.findAll { result ->
            try {
                shiftFor(headerOf(result.first), server())
                return true
            } catch (IllegalStateException error) {
                return false
            }
        } ?: chosen
    if (chosen.size() > 1)
        throw new IllegalStateException("${chosen.size()} results fit: ${chosen.collect { it.folder }.join(', ')}; set results to one of them")
    return chosen ? chosen[0] : null
}

def samePlace(result, file) {
    def record = new File(result.folder, 'run.json')
    if (!record.isFile())
        return false
    def slide = new Gson().fromJson(record.getText('UTF-8'), Map).slide
    return slide instanceof Map && slide.path != null && plain(new File(slide.path).getPath()) == plain(file.getPath())
}

/**
 * What to add to a result's coordinates, [x, y], to get those of QuPath's image.
 *
 * Some slides declare bounds, and whether QuPath shows only these depends on vendor, version and
 * options. Both sizes and the corner are in the header, so all cases are exact; a size that is
 * neither belongs to another image.
 */
def shiftFor(header, server) {
    refuseTransformed(server)
    def size = [server.getWidth(), server.getHeight()]
    if (header == null || header.image_width == null || header.image_height == null)
        return [0, 0]
    def offset = header.frame == 'qupath' && header.offset ? header.offset.collect { it as int } : [0, 0]
    def bounds = header.bounds ? header.bounds.collect { it as int } : null
    def fits = { w, h -> w != null && h != null && size == [w as int, h as int] }
    def shown = null // corner of QuPath's image in the whole slide
    if (fits(header.image_width, header.image_height))
        shown = offset
    else if (fits(header.level0_width, header.level0_height))
        shown = [0, 0]
    else if (bounds != null && fits(bounds[2], bounds[3]))
        shown = bounds[0..1]
    def cropped = server.getPath() =~ /\[x=(\d+),y=(\d+),w=\d+,h=\d+\]$/
    if (shown == null || (cropped.find() && shown != [cropped.group(1) as int, cropped.group(2) as int]))
        throw new IllegalStateException("the result is of ${header.image}, ${header.image_width as int} x ${header.image_height as int} pixels " +
            "(frame ${header.frame}), and this image has ${size[0]} x ${size[1]}: it is another slide, another image of the same file, or another part " +
            'of it; import it onto the image it is of, or segment this one')
    return [offset[0] - shown[0], offset[1] - shown[1]]
}

/**
 * Read all objects of one kind, or throw before anything is changed. Objects nested in others stand
 * in the list, too; `around` says in which: id -> id.
 */
def readResult(result, kind) {
    def file = result.file ?: filesOf(result.folder, kind)[0]
    if (file == null)
        return null
    if (!(file.getName().toLowerCase() ==~ /.*\.(geo)?json(\.gz)?/))
        throw new IllegalStateException("${file}: QuPath reads .geojson and .geojson.gz; name such a file")
    def header = headerOf(file)
    def parts = [[file: file]]
    if (file.getName().endsWith('.index.json'))
        parts = new Gson().fromJson(file.getText('UTF-8'), Map).files.collect {
            [file: new File(file.getParentFile(), it.file), bytes: it.bytes as long, objects: it.objects as int]
        }
    def objects = [], around = [:]
    parts.each { part ->
        if (!part.file.isFile() || (part.bytes != null && part.file.length() != part.bytes))
            throw new IllegalStateException("${part.file}: is ${part.file.isFile() ? 'not whole' : 'missing'}; copy the folder of the result once more")
        def read
        try {
            read = flattened(PathIO.readObjects(part.file), around)
        } catch (Exception error) {
            throw new IllegalStateException("${part.file}: QuPath cannot read it (${inOneLine(error)}); wsiseg verify-geojson names the object", error)
        }
        if (part.objects != null && read.size() < part.objects)
            throw new IllegalStateException("${part.file}: has ${read.size()} of ${part.objects} objects; copy the folder of the result once more")
        objects.addAll(read)
    }
    if (objects.isEmpty() && !(header != null && header.empty))
        throw new IllegalStateException("${file}: no objects in it; wsiseg verify-geojson says why")
    return [header: header, objects: objects, around: around]
}

/** Objects and those nested in them, taken apart. */
def flattened(objects, around) {
    return objects.collectMany { object ->
        def inside = object.getChildObjectsAsArray().toList()
        inside.each { around[it.getID()] = object.getID() }
        object.clearChildObjects()
        return [object] + flattened(inside, around)
    }
}

/** What a single file is: of one model and kind the new takes the place of the old. */
def kindOf(result, objects) {
    def stem = result.file.getName().replaceFirst(/(\.index)?\.(geo)?json(\.gz)?$/, '')
    if (['annotations', 'tissue', 'tiles'].contains(stem) || !result.model)
        return stem
    return objects.any { it.isTile() } ? 'tiles' : 'annotations'
}

/** Import the kinds that were set; returns what to tell. */
def importResult(data, result, settings) {
    def kinds = result.file ? [''] : settings.kinds.split(',').collect { it.trim() }
    def read = [:]
    kinds.each { kind ->
        def one = readResult(result, kind)
        if (one == null)
            throw new IllegalStateException("${result.folder}: has no ${kind}; segment the slide again, or set kinds")
        def shift = shiftFor(one.header, data.getServer())
        if (shift != [0, 0]) {
            def transform = AffineTransform.getTranslateInstance(shift[0], shift[1])
            one.objects = one.objects.collect { PathObjectTools.transformObject(it, transform, true) }
        }
        refuseOutside(one.objects, data.getServer())
        read[result.file ? kindOf(result, one.objects) : kind] = one
    }
    def counts = read.collectEntries { kind, one -> [kind, replaceObjects(data, kind, one, settings)] }
    def told = counts.collect { kind, count -> "${kind}: ${tell(count)}" }
    def note = nest(data.getHierarchy(), settings.hierarchy, counts.values().any { it.added > 0 })
    def other = result.image != null && fileOf(data.getServer().getURIs()) != null &&
        plain(result.image) != plain(fileOf(data.getServer().getURIs()).getName())
    return told.join('; ') + (note ? "; ${note}" : '') + (other ? "; note that it is the result of ${result.image}" : '')
}

def refuseOutside(objects, server) {
    def outside = objects.find {
        def roi = it.getROI()
        roi.getBoundsX() < -1 || roi.getBoundsY() < -1 || roi.getBoundsX() + roi.getBoundsWidth() > server.getWidth() + 1 ||
            roi.getBoundsY() + roi.getBoundsHeight() > server.getHeight() + 1
    }
    if (outside != null)
        throw new IllegalStateException("objects lie outside the image of ${server.getWidth()} x ${server.getHeight()} pixels " +
            "(x ${outside.getROI().getBoundsX()}, y ${outside.getROI().getBoundsY()}): they are of another slide, level or frame; segment this slide with wsiseg")
}

/** What an annotation looks like, to see later whether somebody edited it. */
def looksOf(object) {
    def roi = object.getROI()
    return [roi.getBoundsX(), roi.getBoundsY(), roi.getBoundsWidth(), roi.getBoundsHeight(), Math.sqrt(roi.getArea())]
        .collect { Math.round(it * 10) }
}

def sameLooks(one, other) {
    return (0..<one.size()).every { Math.abs(one[it] - other[it]) <= 1 }
}

def classOf(object) {
    return object.getPathClass() == null ? '' : object.getPathClass().toString()
}

def typeOf(object) {
    return [object.isAnnotation(), object.isTile(), object.isCell(), object.getROI().isPoint()]
}

/** Whether somebody edited or locked an annotation since its import, when it looked as `was`. */
def isTouched(object, was) {
    return was && (!sameLooks(looksOf(object), was.looks) || classOf(object) != was.name || (object.isLocked() && !was.locked))
}

/** Put objects in the place of those of an earlier import; returns how many became what. */
def replaceObjects(data, kind, read, settings) {
    def hierarchy = data.getHierarchy(), header = read.header, objects = read.objects
    def model = header != null && header.model ? header.model.toString().replaceFirst(/\s+\S+$/, '') : ''
    def key = "wsiseg: ${kind}${model ? ' of ' + model : ''}".toString()
    def before = [:] // id -> what it looked like when imported; [] for detections
    (data.getProperty(key) ?: '').toString().readLines().each { line ->
        def cells = line.split('\t', -1)
        before[UUID.fromString(cells[0])] = cells.size() < 4 ? [] :
            [looks: cells[1].split(' ').collect { it as long }, locked: cells[2] == 'L', name: cells[3]]
    }
    def present = hierarchy.getAllObjects(false).groupBy { it.getID() }
    def add = [], remove = [], counts = [added: 0, updated: 0, removed: 0, kept: 0, doubles: 0]
    def lines = []
    objects.each { fresh ->
        def found = present[fresh.getID()]
        def isAnnotation = fresh.isAnnotation()
        if (isAnnotation && settings.lock != 'as written')
            fresh.setLocked(settings.lock == 'yes')
        lines << (isAnnotation ? [fresh.getID(), looksOf(fresh).join(' '), fresh.isLocked() ? 'L' : '', classOf(fresh)].join('\t')
            : fresh.getID().toString())
        if (!found) {
            add << fresh
            counts.added++
            return
        }
        remove.addAll(found.drop(1)) // imported twice without this script
        counts.doubles += found.size() - 1
        def old = found[0]
        def isOther = typeOf(old) != typeOf(fresh) // exported as cells, and annotations before
        def edited = isOther ? isTouched(old, before[old.getID()])
            : isAnnotation && (classOf(old) != classOf(fresh) || !sameLooks(looksOf(old), looksOf(fresh)))
        if (edited && settings.edited != 'replace') {
            counts.kept++
            return
        }
        if (edited || isOther) {
            remove << old
            add << fresh
        } else {
            old.getMeasurementList().putAll(fresh.getMeasurementList())
        }
        counts.updated++
    }
    def now = objects.collect { it.getID() } as Set
    if (settings.stale != 'keep')
        before.each { id, was ->
            if (now.contains(id) || !present[id])
                return
            def old = present[id][0]
            if (isTouched(old, was) && settings.edited != 'replace') {
                counts.kept++
            } else {
                remove.addAll(present[id])
                counts.removed++
            }
        }
    if (remove)
        hierarchy.removeObjects(remove, true)
    if (add)
        hierarchy.addObjects(add)
    putInside(hierarchy, add.findAll { read.around[it.getID()] }, read.around)
    hierarchy.fireHierarchyChangedEvent(this)
    data.setProperty(key, lines.join('\n'))
    return counts
}

/** Nest new objects as their file has them. */
def putInside(hierarchy, added, around) {
    if (!added)
        return
    def present = hierarchy.getAllObjects(false).collectEntries { [it.getID(), it] }
    added.groupBy { around[it.getID()] }.each { id, inside -> present[id].addChildObjects(inside) }
}

def tell(counts) {
    def told = ["${counts.added} added"]
    if (counts.updated) told << "${counts.updated} were there"
    if (counts.removed) told << "${counts.removed} of an earlier result removed"
    if (counts.kept) told << "${counts.kept} kept as you edited or locked them"
    if (counts.doubles) told << "${counts.doubles} doubles removed"
    return told.join(', ')
}

/** Nest objects in the annotations around them, where that is wanted and quick. */
def nest(hierarchy, wanted, isNew) {
    def annotations = hierarchy.getAnnotationObjects().size(), detections = hierarchy.getDetectionObjects()
    if (wanted == 'no' || (wanted == 'auto' && !isNew) || annotations == 0 || annotations + detections.size() < 2)
        return ''
    if (wanted == 'auto' && (annotations > 100 || detections.size() > 1000 || detections.any { it.isTile() }))
        return 'not nested, as there are many objects or tiles; Objects > Annotations > Resolve hierarchy does it'
    hierarchy.resolveHierarchy()
    return ''
}
// <<< shared: import
