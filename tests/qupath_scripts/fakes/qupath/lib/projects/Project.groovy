package qupath.lib.projects

class Project {
    final List<ProjectImageEntry> entries

    Project(List entries) { this.entries = entries }

    List<ProjectImageEntry> getImageList() { entries.asImmutable() }
}
