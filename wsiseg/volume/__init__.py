"""What only 3D needs: body mask, fused export, NIfTI, DICOM-SEG and meshes (being built)."""
