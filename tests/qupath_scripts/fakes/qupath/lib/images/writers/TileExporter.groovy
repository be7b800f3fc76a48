package qupath.lib.images.writers

import com.google.gson.Gson

import qupath.lib.scripting.QP

/** Writes empty-looking tiles under QuPath's names; every third fails silently if the world says so. */
class TileExporter {
    private final Object data
    private double factor
    private int side = 512
    private int shared = 0
    private String ending = '.tif'
    private boolean partial = false
    private Object labels
    private Collection parents

    TileExporter(Object data) { this.data = data }

    TileExporter downsample(double value) { factor = value; this }
    TileExporter imageExtension(String value) { ending = value; this }
    TileExporter labeledImageExtension(String value) { this }
    TileExporter labeledServer(Object value) { labels = value; this }
    TileExporter imageSubDir(String value) { this }
    TileExporter labeledImageSubDir(String value) { this }
    TileExporter exportJson(boolean value) { this }
    TileExporter parentObjects(Collection value) { parents = value; this }
    TileExporter useROIBounds(boolean value) { this }
    TileExporter tileSize(int value) { side = value; this }
    TileExporter overlap(int value) { shared = value; this }
    TileExporter includePartialTiles(boolean value) { partial = value; this }
    TileExporter annotatedTilesOnly(boolean value) { this }

    void writeTiles(String folder) {
        def out = new File(folder)
        if (!out.isDirectory())
            throw new IOException("Output directory ${out} does not exist")
        def server = data.getServer()
        def step = (side - shared) * factor
        def boxes = []
        if (parents != null)
            boxes = parents.collect { [it.getROI().getBoundsX(), it.getROI().getBoundsY(), it.getROI().getBoundsWidth(), it.getROI().getBoundsHeight()].collect { it as int } }
        else
            for (double y = 0; y + (partial ? 1 : side * factor) <= server.getHeight(); y += step)
                for (double x = 0; x + (partial ? 1 : side * factor) <= server.getWidth(); x += step)
                    boxes << [x as int, y as int, (side * factor) as int, (side * factor) as int]
        ['images', 'masks'].each { new File(out, it).mkdirs() }
        def tiles = []
        boxes.eachWithIndex { box, number ->
            def name = "${server.getMetadata().getName()} [d=${factor},x=${box[0]},y=${box[1]},w=${box[2]},h=${box[3]}]"
            tiles << [image: "images/${name}${ending}".toString(), labels: "masks/${name}.png".toString()]
            if (!(QP.world.failing && number % 3 == 2))
                [tiles[-1].image, tiles[-1].labels].each { new File(out, it).text = 'pixels' }
        }
        new File(out, server.getMetadata().getName() + '-tiles.json').setText(new Gson().toJson([tiles: tiles]), 'UTF-8')
    }
}
