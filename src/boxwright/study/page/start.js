/* Last of the scripts: everything is defined. */
wire();
wireImages();
wireRelabel();
update();
showAnchors();
