/*
 * What you drew in QuPath, as a data set that `wsiseg train` takes as it is. QuPath 0.5 or newer.
 *
 *   <out>/dataset.toml         slides with their files, labels, patients and splits
 *   <out>/labels/<image>.geojson
 *
 * In QuPath: Automate > Script editor, open this file, look through the settings, Run: the open image
 * is written and entered in dataset.toml. "Run for project" does so for the images chosen there;
 * images = 'project' for all of them in one Run.
 *
 * Without a window:
 *   QuPath script export_annotations.groovy -p project.qpproj -a /data/tumour
 *
 * Safe to repeat: an image's labels and its entry are replaced, and what you wrote into dataset.toml
 * by hand (splits, columns, mapping) stays. An image without annotations is taken out.
 *
 * Metadata of the project (right click on an image > Add metadata) become columns. The keys patient
 * (or patient_id, case, case_id) and split (train, val or test) have a meaning for wsiseg.
 */

// ---- Settings: an argument such as -a validation=0.2 replaces them ------------------------------
def settings = [
    out       : '',         // folder to write; '' is the folder `wsiseg-training` in the project's folder
    images    : 'current',  // 'current', or 'project' for all images of the project
    classes   : '',         // 'Tumor, Stroma': only these; '': all that are drawn
    background: 'background', // what is not annotated; a class of this name may be drawn, too
    ignore    : 'Ignore*',  // classes of areas that nobody can tell: neither learned from nor scored
    within    : 'Region*',  // classes of regions inside which everything is annotated; an image without
                            // one counts as annotated throughout
    validation: '0',        // share of the patients whose slides decide when training stops
    test      : '0',        // share of the patients kept for the test; both by chance, but always the same
]
// -------------------------------------------------------------------------------------------------

import java.awt.geom.AffineTransform
import java.nio.file.Files
import java.nio.file.Paths
import java.nio.file.StandardCopyOption
import java.security.MessageDigest
import java.text.Normalizer

import com.google.gson.Gson

import qupath.lib.objects.PathObjectTools
import qupath.lib.objects.PathObjects
import qupath.lib.regions.ImagePlane
import qupath.lib.roi.ROIs

readArguments(settings, 'out')
if (!settings.out && getProject() == null)
    throw new IllegalStateException("say in the settings where to write: out = '/folder/for/training'")
def out = new File(settings.out ?: buildFilePath(PROJECT_BASE_DIR, 'wsiseg-training'))
def report = [done: [], none: [], failed: []]
def found = [] // what is to be entered
def names = [classes: [] as LinkedHashSet, ignore: [] as LinkedHashSet, within: [] as LinkedHashSet]
def todo = []
if (settings.images == 'project') {
    if (getProject() == null)
        throw new IllegalStateException("images = 'project' needs an open project; open one, or set images = 'current'")
    todo = getProject().getImageList().toList()
} else {
    if (getCurrentImageData() == null)
        throw new IllegalStateException("no image is open; open one, or set images = 'project'")
    todo = [getProjectEntry()]
}
def table = readTable(new File(out, 'dataset.toml'))
todo.each { entry ->
    def isOpen = entry == null || (getProjectEntry() != null && entry.getID() == getProjectEntry().getID())
    def name = entry == null ? nameOfImage(getCurrentImageData()) : entry.getImageName()
    def data = null
    try {
        data = isOpen && getCurrentImageData() != null ? getCurrentImageData() : entry.readImageData()
        exportOne(data, name, entry, out, table, settings, names, report)
    } catch (InterruptedException error) {
        throw error
    } catch (Exception error) {
        report.failed << "${name}: ${inOneLine(error)}"
    } finally {
        if (data != null && !isOpen)
            data.getServer().close()
    }
}
if (table.blocks || table.head)
    writeTable(new File(out, 'dataset.toml'), table, names, settings)

println "wsiseg: ${report.done.size()} of ${report.values().sum { it.size() }} images written to ${out}"
report.done.each { println "  done    ${it}" }
report.none.each { println "  NONE    ${it}" }
report.failed.each { println "  FAILED  ${it}" }
if (report.done)
    println "dataset.toml has ${table.blocks.size()} slides; the classes are ${table.classes.join(', ')}. Next: wsiseg train config.toml"
if (report.failed)
    throw new IllegalStateException("${report.failed.size()} failed: ${report.failed[0]}")


/** Write the labels of one image, and enter it in the table. */
def exportOne(data, name, entry, out, table, settings, names, report) {
    def server = data.getServer()
    refuseTransformed(server)
    def file = fileOf(server.getURIs())
    if (file == null)
        throw new IllegalStateException('is no file of this machine; copy the slide here and add it to the project')
    def slide = file.getPath().replace('\\', '/')
    def labels = 'labels/' + fileNameOf(name) + '.geojson'
    def isThis = { other -> plain((new File(other.values.slide).isAbsolute() ? new File(other.values.slide) : new File(out, other.values.slide)).getCanonicalPath()) == plain(file.getCanonicalPath()) }
    def block = table.blocks.find(isThis)
    if (block != null && block.values.labels != labels)
        throw new IllegalStateException("dataset.toml has ${slide} with the labels ${block.values.labels}: a file is one slide in training; " +
            'export one image of it only, or remove that entry')
    if (table.blocks.any { !isThis(it) && plain(it.values.labels) == plain(labels) })
        throw new IllegalStateException("another slide of dataset.toml has the labels ${labels}; rename one of the images in the project")

    def wanted = listOf(settings.classes), ignore = listOf(settings.ignore), within = listOf(settings.within)
    def chosen = [], left = [:]
    data.getHierarchy().getAnnotationObjects().each {
        def known = classOf(it)
        def reason = !it.getROI().isArea() || it.getROI().getArea() <= 0 ? 'lines and points'
            : !known ? 'without a class'
            : it.getROI().getZ() > 0 || it.getROI().getT() > 0 ? 'in other planes'
            : wanted && !((wanted + ignore + within).contains(known)) ? "of class ${known}".toString() : null
        if (reason)
            left[reason] = (left[reason] ?: 0) + 1
        else
            chosen << it
    }
    def note = left ? ' (left out: ' + left.collect { reason, count -> "${count} ${reason}" }.join(', ') + ')' : ''
    if (!chosen.any { !within.contains(classOf(it)) && !ignore.contains(classOf(it)) }) {
        if (block != null) {
            table.blocks.remove(block)
            new File(out, labels).delete()
        }
        report.none << "${name}: nothing annotated with a class to learn${note}; not in the data set" +
            (chosen ? "; if it holds none of them, draw one outline of class ${settings.background}" : '')
        return
    }
    if (within && !chosen.any { within.contains(classOf(it)) }) {
        def all = ROIs.createRectangleROI(0, 0, server.getWidth(), server.getHeight(), ImagePlane.getDefaultPlane())
        chosen << PathObjects.createAnnotationObject(all, getPathClass(within[0]))
        note += ", without ${within[0]}: taken as annotated throughout"
    }
    writeLabels(new File(out, labels), chosen, server)
    chosen.each { object ->
        def known = classOf(object)
        (ignore.contains(known) ? names.ignore : within.contains(known) ? names.within : names.classes) << known
    }
    enter(table, block, rowOf(slide, labels, name, server, entry, settings))
    report.done << "${name}: ${chosen.size()} annotations of ${chosen.collect { classOf(it) }.toSet().sort().join(', ')}${note}"
}

/** What dataset.toml says of a slide. */
def rowOf(slide, labels, name, server, entry, settings) {
    def row = [slide: slide, labels: labels]
    def calibration = server.getPixelCalibration()
    if (calibration.hasPixelSizeMicrons())
        row.mpp = [calibration.getPixelWidthMicrons(), calibration.getPixelHeightMicrons()]
    def metadata = entry == null ? [:] : entry.respondsTo('getMetadata') ? entry.getMetadata() : entry.getMetadataMap()
    metadata.each { key, value ->
        def plainKey = key.trim().toLowerCase(Locale.ROOT).replaceAll(/[^\p{L}\p{N}]+/, '_')
        if (['patient', 'patient_id', 'case', 'case_id'].contains(plainKey))
            row.patient = value
        else if (plainKey == 'split')
            row.split = ['validation', 'valid'].contains(value.toLowerCase(Locale.ROOT)) ? 'val' : value.toLowerCase(Locale.ROOT)
        else if (plainKey && !row.containsKey(plainKey) && !['slide', 'labels', 'mpp'].contains(plainKey))
            row[plainKey] = value
    }
    if (row.split != null && !['train', 'val', 'test'].contains(row.split))
        throw new IllegalStateException("its metadata say split = ${row.split}; needed train, val or test")
    if (row.split == null)
        row.drawnSplit = splitOf(row.patient ?: stemOf(new File(slide).getName()), settings)
    return row
}

/** Train, val or test by chance, the same for a patient in every export. */
def splitOf(patient, settings) {
    def shares = [settings.validation as double, settings.test as double]
    if (shares.any { it < 0 } || shares.sum() >= 1)
        throw new IllegalArgumentException("validation ${settings.validation} and test ${settings.test}: needed shares that leave something to train on, such as 0.2")
    def digest = MessageDigest.getInstance('SHA-256').digest(patient.getBytes('UTF-8'))
    def chance = ((digest[0] & 0xff) * 65536 + (digest[1] & 0xff) * 256 + (digest[2] & 0xff)) / 16777216.0d
    return chance < shares[1] ? 'test' : chance < shares[1] + shares[0] ? 'val' : 'train'
}

/** Write GeoJSON, and in it of which image it is: wsiseg then refuses it for another. */
def writeLabels(file, objects, server) {
    def header = [image: fileOf(server.getURIs()).getName(), image_width: server.getWidth(), image_height: server.getHeight(), frame: 'qupath']
    def cropped = server.getPath() =~ /\[x=(\d+),y=(\d+),w=\d+,h=\d+\]$/
    if (cropped.find()) { // QuPath shows a part of the slide only, and says which
        def shift = AffineTransform.getTranslateInstance(cropped.group(1) as double, cropped.group(2) as double)
        objects = objects.collect { PathObjectTools.transformObject(it, shift, true) }
        header.frame = 'level0'
    }
    mkdirs(file.getParent())
    def draft = new File(file.getParentFile(), '.' + file.getName() + '.part.geojson')
    def part = new File(file.getParentFile(), '.' + file.getName() + '.part')
    try {
        exportObjectsToGeoJson(objects, draft.getPath(), 'FEATURE_COLLECTION')
        draft.withReader('UTF-8') { reader ->
            def letter = reader.read()
            while (letter >= 0 && letter != 123) // the first brace
                letter = reader.read()
            part.withWriter('UTF-8') { writer ->
                writer << '{"wsiseg":' << new Gson().toJson(header) << ','
                writer << reader
            }
        }
        Files.move(part.toPath(), file.toPath(), StandardCopyOption.REPLACE_EXISTING)
    } finally {
        draft.delete()
        part.delete()
    }
}

/** A file name for an image, without what some system refuses. */
def fileNameOf(name) {
    def clean = stemOf(name).replaceAll(/[\\\/:*?"<>|\x00-\x1f]/, '_').replaceAll(/^[. ]+|[. ]+$/, '')
    return clean ?: 'image'
}

def classOf(object) {
    return object.getPathClass() == null ? '' : object.getPathClass().toString()
}

def listOf(text) {
    return text.split(',').collect { it.trim() }.findAll { it }
}

// ---- dataset.toml: its own lines are rewritten, all others kept ---------------------------------

/** The lines before the first slide, and each slide's keys, as they stand, and its other lines. */
def readTable(file) {
    def table = [head: [], blocks: [], classes: []]
    if (!file.exists())
        return table
    def block = null
    def lines = file.getText('UTF-8').replaceFirst('^\uFEFF', '').readLines()
    lines.each { line ->
        if (line.trim() ==~ /\[\[\s*slides\s*\]\].*/) {
            block = [values: [:], raw: new LinkedHashMap(), other: []]
            table.blocks << block
        } else if (block == null) {
            table.head << line
        } else {
            def pair = line =~ /^\s*("(?:[^"\\]|\\.)*"|[A-Za-z0-9_-]+)\s*=\s*(.*?)\s*$/
            if (pair.matches()) {
                def key = pair.group(1).startsWith('"') ? new Gson().fromJson(pair.group(1), String) : pair.group(1)
                block.raw[key] = pair.group(2)
                block.values[key] = valueOf(pair.group(2))
            } else if (line.trim().startsWith('#')) {
                block.other << line
            } else if (line.trim()) {
                block.values.clear() // a value of several lines, or another table
            }
        }
    }
    if (table.blocks.any { !it.values.slide || !it.values.labels } || table.head.any { it ==~ /\s*slides\s*=.*/ })
        throw new IllegalStateException("${file}: has slides written in a way this script cannot continue; " +
            'write each as [[slides]] with slide = "..." and labels = "..." on lines of their own, or set another out')
    return table
}

/** The text of a TOML string; '' for what is none. */
def valueOf(raw) {
    def quoted = raw =~ /^("(?:[^"\\]|\\.)*")\s*(#.*)?$/
    if (quoted.matches())
        return new Gson().fromJson(quoted.group(1), String)
    def literal = raw =~ /^'([^']*)'\s*(#.*)?$/
    return literal.matches() ? literal.group(1) : ''
}

/** A TOML string: a JSON string is one, but for what lies outside the basic plane. */
def quote(text) {
    def quoted = new StringBuilder('"')
    text.toString().each { letter ->
        def code = letter.codePointAt(0)
        quoted << (letter == '"' || letter == '\\' ? '\\' + letter : code < 32 || code == 127 ? String.format('\\u%04X', code) : letter)
    }
    return quoted.append('"').toString()
}

def enter(table, block, row) {
    if (block == null) {
        block = [values: [:], raw: new LinkedHashMap(), other: []]
        table.blocks << block
    }
    row.each { key, value ->
        if (key == 'drawnSplit') {
            if (!block.raw.containsKey('split')) // what stands there was chosen
                block.raw.split = quote(value)
            return
        }
        block.raw[key] = value instanceof List ? '[' + value.join(', ') + ']' : quote(value)
        block.values[key] = value instanceof List ? '' : value
    }
}

/** Write the table whole or not at all. */
def writeTable(file, table, names, settings) {
    if (!table.head) {
        table.head = ['# Slides to train on; written by export_annotations.groovy from QuPath.',
                      "classes = [${quote(settings.background)}]".toString(), '', '[labels]', 'ignore = []', 'within = []', '']
    }
    def ignored = extend(table.head, 'ignore', names.ignore.toList(), 'labels')
    def regions = extend(table.head, 'within', names.within.toList(), 'labels')
    def mapped = table.head.collectMany { line -> (line =~ /("(?:[^"\\]|\\.)*"|[A-Za-z0-9_-]+)\s*=\s*"/).collect { valueOf(it[1]) ?: it[1] } }
    def known = (listOf(settings.classes).findAll { names.classes.contains(it) } + names.classes.sort())
        .findAll { !(ignored + regions + mapped).contains(it) }
    table.classes = extend(table.head, 'classes', known, null)
    while (table.head && !table.head[-1].trim())
        table.head.remove(table.head.size() - 1)
    def text = new StringBuilder(table.head.join('\n')).append('\n')
    table.blocks.each { block ->
        text << '\n[[slides]]\n'
        block.raw.each { key, raw -> text << (key ==~ /[A-Za-z0-9_-]+/ ? key : quote(key)) << ' = ' << raw << '\n' }
        block.other.each { text << it << '\n' }
    }
    mkdirs(file.getParent())
    def part = new File(file.getParentFile(), '.' + file.getName() + '.part')
    part.setText(text.toString(), 'UTF-8')
    Files.move(part.toPath(), file.toPath(), StandardCopyOption.REPLACE_EXISTING)
}

/** Add names to a list in the head; returns the whole list. */
def extend(head, key, names, section) {
    def at = head.findIndexOf { it ==~ /\s*/ + key + /\s*=\s*\[.*\]\s*(#.*)?/ }
    if (at < 0) {
        if (!names && section != null)
            return []
        if (head.any { it ==~ /\s*/ + key + /\s*=.*/ })
            throw new IllegalStateException("dataset.toml: write ${key} = [...] on one line, so that it can be continued")
        def start = section == null ? 0 : head.findIndexOf { it.trim() == "[${section}]" } + 1
        if (section != null && start == 0) {
            head << '' << "[${section}]".toString()
            start = head.size()
        }
        head.add(start, "${key} = []".toString())
        at = start
    }
    def inside = head[at].substring(head[at].indexOf('[') + 1, head[at].lastIndexOf(']'))
    def there = (inside =~ /"(?:[^"\\]|\\.)*"|'[^']*'/).collect { valueOf(it) }
    def all = (there + names).unique()
    def comment = head[at].substring(head[at].lastIndexOf(']') + 1)
    if (all != there)
        head[at] = "${key} = [${all.collect { quote(it) }.join(', ')}]${comment}".toString()
    return all
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
