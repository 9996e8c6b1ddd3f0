"""Read and write photos without losing what they hold: 16 bit, alpha, EXIF, ICC profile.

photo      what a photo is once it is read, and what is wrong with one that is not
budget     how large a photo may be, and in which formats
png, jpeg, tiff, netpbm     what is looked at in a file of that format before it is decoded, or where Pillow does not do
metadata   EXIF and profile, after the pixels
reading    a file or its bytes to a photo
writing    a photo to a file

Arrays are OpenCV's: BGR, uint8 or uint16.
"""

from lafr_base.images.budget import IMAGE_SUFFIXES, MAX_PIXELS
from lafr_base.images.listing import list_images
from lafr_base.images.photo import DiskError, ImageError, Photo, to_uint8
from lafr_base.images.reading import decode_image, is_image, read_image
from lafr_base.images.writing import MAX_SIDE, OUTPUT_SUFFIXES, write_image

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "MAX_SIDE",
    "OUTPUT_SUFFIXES",
    "DiskError",
    "ImageError",
    "Photo",
    "decode_image",
    "is_image",
    "list_images",
    "read_image",
    "to_uint8",
    "write_image",
]
