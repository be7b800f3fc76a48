/* Runs scripts in a made-up QuPath: a world as JSON on each line of stdin, what came of it on stdout. */
import com.google.gson.GsonBuilder
import org.codehaus.groovy.control.CompilerConfiguration
import org.codehaus.groovy.control.customizers.ImportCustomizer

import qupath.lib.images.ImageData
import qupath.lib.images.servers.FakeServer
import qupath.lib.io.PathIO
import qupath.lib.gui.viewer.FakeViewer
import qupath.lib.objects.hierarchy.PathObjectHierarchy
import qupath.lib.projects.Project
import qupath.lib.projects.ProjectImageEntry
import qupath.lib.scripting.QP

/** What a script prints, and when each line was complete. */
class Printed extends StringWriter {
    final List<Long> times = []

    private void note(String text) {
        text.findAll('\n').each { times.add(System.currentTimeMillis()) }
    }

    void write(String text) {
        super.write(text)
        note(text)
    }

    void write(String text, int start, int length) {
        super.write(text, start, length)
        note(text.substring(start, start + length))
    }

    void write(char[] text, int start, int length) {
        super.write(text, start, length)
        note(new String(text, start, length))
    }
}

def gson = new GsonBuilder().serializeNulls().create()
def imports = new ImportCustomizer()
imports.addStaticStars('qupath.lib.gui.scripting.QPEx')
def configuration = new CompilerConfiguration()
configuration.addCompilationCustomizers(imports)
def compiled = [:]

def made(told) {
    def images = []
    told.images.eachWithIndex { image, number ->
        def hierarchy = new PathObjectHierarchy()
        hierarchy.addObjects((image.objects ?: []).collect { PathIO.read(it) })
        images << new ProjectImageEntry("entry ${number}".toString(), image, new ImageData(new FakeServer(image), hierarchy, [:]))
    }
    return [images: images, open: told.open == null ? null : told.open as int, folder: told.folder, failing: told.failing,
            project: told.folder == null ? null : new Project(images), viewer: told.window ? new FakeViewer() : null]
}

def change(step) {
    def objects = QP.world.images[step.image as int].data.getHierarchy().getAllObjects(false)
    def object = objects.find { it.getID().toString() == step.id }
    if (step.move) object.shape = object.shape.moved(step.move[0] as double, step.move[1] as double)
    if (step.containsKey('lock')) object.setLocked(step.lock)
    if (step.reclassify) object.known = QP.getPathClass(step.reclassify)
    if (step.delete) QP.world.images[step.image as int].data.getHierarchy().removeObjects([object], true)
}

def shown() {
    return QP.world.images.collect { entry ->
        def tree = entry.data.getHierarchy()
        [objects: tree.getAllObjects(false).collect {
            [id: it.getID().toString(), kind: it.kind, 'class': it.getPathClass()?.toString(), x: it.getROI().getBoundsX(), y: it.getROI().getBoundsY(),
             area: it.getROI().getArea(), locked: it.isLocked(), parent: it.getParent()?.getID()?.toString() == tree.root.getID().toString() ? null : it.getParent()?.getID()?.toString(),
             measurements: it.getMeasurementList().held]
        }, saves: entry.saves, reads: entry.reads, closed: entry.data.getServer().closed]
    }
}

System.in.withReader('UTF-8') { reader ->
    reader.eachLine { line ->
        def told = gson.fromJson(line, Map)
        QP.world = made(told)
        def results = told.steps.collect { step ->
            if (step.containsKey('open')) {
                QP.world.open = step.open as int
                return null
            }
            if (!step.script) {
                change(step)
                return null
            }
            def out = new Printed(), failure = null, trace = null
            def before = System.out
            try {
                if (!compiled.containsKey(step.script))
                    compiled[step.script] = new GroovyShell(this.class.classLoader, new Binding(), configuration).parse(new File(step.script).getText('UTF-8')).class
                def script = compiled[step.script].getDeclaredConstructor().newInstance()
                script.binding = new Binding((step.args == null ? [:] : [args: step.args as String[]]) + [out: new PrintWriter(out, true)])
                if (step.interrupt) {
                    def own = Thread.currentThread()
                    Thread.start {
                        while (!new File(step.interrupt).exists())
                            Thread.sleep(20)
                        own.interrupt()
                    }
                }
                script.run()
            } catch (Throwable error) {
                failure = error.getMessage() ?: error.toString()
                trace = error.getClass().getName() + '\n' + error.getStackTrace().findAll { it.getFileName()?.startsWith('Script') }.take(5).join('\n')
            }
            def options = QP.world.viewer?.getOverlayOptions()
            def mapper = options?.mapper
            return [lines: out.toString().readLines(), times: out.times, error: failure, trace: trace, images: shown(),
                    view: mapper == null ? null : [name: mapper.name, colors: mapper.colors, count: mapper.count, low: mapper.low, high: mapper.high, filled: options.filled]]
        }
        println gson.toJson([groovy: GroovySystem.version, steps: results])
        System.out.flush()
    }
}
